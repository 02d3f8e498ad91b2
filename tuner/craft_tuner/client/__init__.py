"""The black box over HTTP: requests, retries, uploads, answers and their cost."""
