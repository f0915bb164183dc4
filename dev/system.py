"""What the operating system has to bring: a Python that can make environments, and a browser."""

import os
import shutil
import subprocess
import sys

PYTHONS = ((3, 11), (3, 13))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class SetupError(Exception):
    """Something that the user has to put right; the message says how."""


def say(text):
    """Print a progress line where it cannot mix with a result on stdout."""
    print(f"host: {text}", file=sys.stderr, flush=True)


def apt_install(*packages):
    """Install Debian packages if we may; whether that worked."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say(f"installing {' '.join(packages)} with apt-get")
    run = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    subprocess.run([*run, "update"], stdout=sys.stderr)
    install = [*run, "install", "-y", "--no-install-recommends", *packages]
    return subprocess.run(install, stdout=subprocess.DEVNULL).returncode == 0


def check_python():
    """Stop early where this Python cannot make the environments."""
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        raise SetupError(
            "Python {}.{} to {}.{} is needed, this is {}.{}: use make PYTHON=/path/to/another python3.".format(
                *low, *high, *sys.version_info[:2]
            )
        )
    check = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL)
    if check.returncode and not apt_install("python{}.{}-venv".format(*sys.version_info[:2])):
        raise SetupError(f"{sys.executable} cannot make virtual environments; on Debian, install python3-venv.")


def find_browser():
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *BROWSERS))), None)


def check_browser():
    """Install Chromium where it is missing."""
    if not find_browser() and not (apt_install("chromium", "fonts-dejavu-core") and find_browser()):
        raise SetupError("the tests open the frontend in Chromium: install it, or set CHROMIUM=/path/to/it.")
