"""Find objects in pictures with a trained model: the Python API, sources, drawing and saving."""
