"""The HTTP boundary: routes, bodies, responses, errors and limits on connections."""
