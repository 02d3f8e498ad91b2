"""The model server: owns a CLIP model and a meter, answers prompts with logits, nothing else."""
