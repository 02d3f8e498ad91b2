"""Starts Ray and the server on it: options as JSON in the first argument; stops when stdin ends."""

import json
import sys

import ray
from ray import serve

from craft_server.ray_serve import build

options = json.loads(sys.argv[1])
port = options.pop("port")
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(build(options), route_prefix="/")
sys.stdout.write("ready\n")
sys.stdout.flush()
sys.stdin.read()
serve.shutdown()
ray.shutdown()
