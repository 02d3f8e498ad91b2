"""The meter against a plain model: random steps of two replicas, on SQLite and on Postgres.

    python -m benchmarks meter-model [--steps 10000]

The steps and the model are those of tests/server/metering/test_meter_machine.py, which takes some
1,800 of them in a test run. Ends with an error at the first difference.
"""

import importlib

from benchmarks.common.machine import options_of

MACHINE = "tests.server.metering.test_meter_machine"


def main() -> None:
    """Take the steps on either store."""
    options = options_of(__doc__, steps=10_000)
    machine = importlib.import_module(MACHINE)
    for test, store in ((machine.MeterMachine, "sqlite"), (machine.PostgresMachine, "postgres")):
        machine.run_long(test, store, options.steps)


if __name__ == "__main__":
    main()
