"""What is wrong with detections, and how sure their scores are: pure functions of ground truth and results."""
