"""The prompts that are kept are the most informative ones."""

import numpy as np

from craft_tuner.heads.prompt_selection import informative


def test_after_the_plain_prompt_each_informative_one_maximises_the_determinant() -> None:
    logits = np.random.RandomState(2).randn(5, 9, 3) * np.array([1, 2, 3, 2, 1])[:, None, None]
    centred = logits - logits.mean(axis=1, keepdims=True)
    tau = (centred**2).mean()

    def worth(chosen: tuple[int, ...]) -> float:
        total = np.eye(9) + sum(centred[p] @ centred[p].T for p in chosen) / tau
        return float(np.linalg.slogdet(total)[1])

    expected: tuple[int, ...] = (0,)
    while len(expected) < 5:
        rest = [index for index in range(5) if index not in expected]
        expected = max(((*expected, index) for index in rest), key=worth)
    assert informative(logits.astype(np.float32)) == [*expected]
