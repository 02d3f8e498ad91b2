"""The README's shell block, run as it stands against the server that it describes."""

import json
import os
import re
import subprocess

import pytest

from tests.support.paths import ROOT
from tests.support.serving import SCRIPTS, running

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_curl_walk_runs_and_answers(tmp_path):
    [block] = re.findall(r"test_readme.py -->\n```bash\n(.*?)```", README, re.DOTALL)
    with running(tmp_path, model="embedded") as server:
        script = block.replace("http://127.0.0.1:8000", server.url)
        assert server.url in script
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT,
            env=server.env | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    uploaded, answered, used = replies(done.stdout)
    assert [image["new"] for image in uploaded["images"]] == [True, True]
    assert answered["cost"] == {
        "queries": 1,
        "calls": 1,
        "logit_vectors": 2,
        "texts": 2,
        "logits": 4,
    }
    [[three, seven]] = answered["logits"]
    assert three[0] > three[1]
    assert seven[1] > seven[0]
    assert used["buckets"][0]["counters"]["queries"] == 1


def replies(output):
    """The JSON documents in it; curl ends no line, so they stand back to back."""
    decoder, found, rest = json.JSONDecoder(), [], output.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


def test_every_link_in_the_documents_leads_somewhere():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
