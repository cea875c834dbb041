"""Score detections: the COCO numbers, the results file, and text for people and programs."""
