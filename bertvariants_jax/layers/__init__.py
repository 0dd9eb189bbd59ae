"""The bricks that encoders share: dense, embeddings, attention, feed-forward, block, stack, heads."""
