"""The command `voicekiln`.

No torch in this process: whatever opens a model is a job for the worker. Exit statuses: 0 all went well; 1 a file
was refused or could not be converted, or what was asked for is not there; 2 the command line is wrong; 75 another
daemon works on the same state folder; 78 the configuration cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voicekiln import __version__, config, logs, service
from voicekiln.config import Settings
from voicekiln.errors import ConfigError
from voicekiln.folders.ledger import Ledger, State, Voice
from voicekiln.folders.names import shown
from voicekiln.folders.sidecar import utc
from voicekiln.folders.watch import file_system

OK, FAILED, BUSY, BAD_CONFIG = 0, 1, os.EX_TEMPFAIL, os.EX_CONFIG

DEFAULT_CONFIG = Path("/etc/voicekiln/config.yaml")
