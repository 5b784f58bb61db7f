"""The central side: pull the replicas of many boxes, and ask questions across them."""
