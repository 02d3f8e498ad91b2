"""`craft-tuner doctor`: everything between a user and a fit is tried, nothing is spent or written.

Owns which checks there are, in which order, and how each is told: `diagnose`, `Sheet`. A check runs
what a fit runs; where that refuses, its sentence is the finding.
"""
