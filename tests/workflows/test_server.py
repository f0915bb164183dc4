"""A real server: it has the pack, and ends with whoever started it."""

import subprocess
import sys

from pack.dev.server import failed_import, with_parent

PREFIX = "SemanticLatents_"


def test_the_pack_is_loaded(server, object_info):
    assert failed_import(server.log) is None
    assert [name for name in object_info if name.startswith(PREFIX)]


def test_a_server_ends_with_its_parent():
    sleeper = [sys.executable, "-c", "import time; print('asleep', flush=True); time.sleep(60); print('awake')"]
    parent = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *with_parent(sleeper)]
    with subprocess.Popen(parent, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "asleep\n"
        running.kill()
        assert running.stdout.read() == "", "it slept on"
