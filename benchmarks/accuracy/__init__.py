"""How well methods classify, against zero-shot, against each other and against CoOp."""
