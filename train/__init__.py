"""Train and evaluate the eye segmenter on packed shards."""
