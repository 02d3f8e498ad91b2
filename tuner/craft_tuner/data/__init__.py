"""Images with labels, wherever they come from: class folders, tables, the digits of scikit-learn.

Owns reading, few-shot sampling and augmented views. Must not know servers, prompts or budgets.
"""
