"""The library: methods on pipelines, judges on images, results as tables, each in one call."""
