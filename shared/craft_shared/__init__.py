"""The wire protocol: the only thing that craft-server and craft-tuner have in common.

Owns messages, tensor bodies, error codes and protocol limits.
"""

PROTOCOL_VERSION = "v1"
