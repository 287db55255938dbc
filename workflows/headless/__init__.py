"""Runs workflows on a headless ComfyUI: sets it up, starts it, queues a graph and follows it."""
