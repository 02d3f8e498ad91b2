"""The tuner: owns labels, optimiser and refinement head; sees the model only through HTTP."""
