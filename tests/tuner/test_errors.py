"""Every error has its own exit code, and the module's docstring says which."""

from craft_tuner import errors
from craft_tuner.errors import CraftTunerError


def subclasses(kind: type[CraftTunerError]) -> list[type[CraftTunerError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]


def test_exit_codes_are_documented_and_distinct() -> None:
    kinds = [kind for kind in subclasses(CraftTunerError) if kind.__module__ == errors.__name__]
    documented = dict(
        line.replace("├", "").replace("└", "").replace("─", "").replace("│", "").split()[:2]
        for line in errors.__doc__.splitlines()
        if line.startswith("    ")
    )
    assert documented == {kind.__name__: str(kind.exit_code) for kind in kinds}
    direct = [kind.exit_code for kind in kinds if kind.__base__ is CraftTunerError]
    assert len(set(direct)) == len(direct)
    assert CraftTunerError("what to do").message == "what to do"
