"""Runs workflows on a headless ComfyUI: sets one up, starts it, queues a graph, follows it."""
