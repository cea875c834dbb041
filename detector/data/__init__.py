"""From a COCO file and a folder of images to batches."""
