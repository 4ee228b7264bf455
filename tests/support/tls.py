"""Certificates for servers of tests."""

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate for 127.0.0.1 and localhost, signed by itself; skips where openssl is missing."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its certificate with openssl, which is not installed")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    what = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test"]
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    files = ["-addext", names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *what, *files], check=True, capture_output=True)
    return key, certificate
