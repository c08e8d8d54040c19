"""`python -m kdmvs STAGE`, the same as `kdmvs STAGE`."""

from __future__ import annotations

import sys

from kdmvs.cli import main

sys.exit(main())
