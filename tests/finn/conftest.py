# SPDX-License-Identifier: Apache-2.0
"""FINN on Verilator for all tests of this folder, in a folder of their own."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from sievit.sim import finn_rtlsim

sys.path.insert(0, str(Path(__file__).parent))

# FINN looks for its folder and its simulator as soon as its builder is imported
FOLDER = tempfile.mkdtemp(prefix="finn-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ["FINN_BUILD_DIR"] = FOLDER
finn_rtlsim.install()


@pytest.fixture(autouse=True)
def always_ready() -> None:
    finn_rtlsim.install()
