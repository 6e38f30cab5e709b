"""The playground: a folder of static files in which the model itself runs in the reader's browser."""
