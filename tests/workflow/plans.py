"""Plan many configurations in one process: Snakemake is imported once, every plan is a fork of it.

`python plans.py REQUESTS ANSWERS` in a checkout. REQUESTS is a JSON object: name -> [configuration files, edited file
or null]; ANSWERS will hold name -> what Snakemake printed. An edited file gets a line of code for the time of its plan.
Without configuration files the answer is JSON: stage -> digest of its code.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path


def plan(configurations: list[str], edited: str | None) -> str:
    """What `snakemake -n` prints in the working directory."""
    from snakemake.cli import main

    from kdmvs.cli import STAGES
    from kdmvs.provenance import code_digest

    with tempfile.TemporaryFile("w+") as printed:
        before = Path(edited).read_bytes() if edited else b""
        if edited:
            Path(edited).write_bytes(before + b"\n\nADDED = 1\n")
        child = os.fork()
        if child == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            try:
                if configurations:
                    main(["--cores", "2", "-n", "--configfile", *configurations])
                else:
                    print(json.dumps({stage: code_digest(f"kdmvs.stages.{stage}") for stage in STAGES}))
            except SystemExit as error:
                print("exit code", error.code, flush=True)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(child, 0)
        if edited:
            Path(edited).write_bytes(before)
        printed.seek(0)
        return printed.read()


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    import snakemake.cli  # noqa: F401

    import kdmvs.variants  # noqa: F401
    from kdmvs.cli import STAGES
    from kdmvs.provenance import code_digest

    for stage in STAGES:  # the syntax trees are kept by the content of their files
        code_digest(f"kdmvs.stages.{stage}")
    requests = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: plan(*request) for name, request in requests.items()}))
