"""Anybody's ONNX file of an RVC voice: is it the voice that it is said to be, and how does it sound?

`verdict` decides, `diagnosis` and `sine` find out why not, `listen` lets it speak. Files come in by `client` alone and
are data for the caged worker. Nothing here makes a file, and no conversion knows that this is here.
"""
