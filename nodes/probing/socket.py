"""The type of the sockets that pass on what the probe measured."""

from comfy_api.latest import io

MEASUREMENTS = io.Custom("RADIAL_MEASUREMENTS")
