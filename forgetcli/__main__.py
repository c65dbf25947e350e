"""``python -m forgetcli`` is ``forget``."""

from __future__ import annotations

import sys

from forgetcli.cli import main

sys.exit(main())
