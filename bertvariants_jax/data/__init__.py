"""Text on disk to masked batches on the host: sources, documents, corpora, masking, packing and the
pipeline.
"""
