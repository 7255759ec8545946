"""Pins the container images by digest: `python -m scripts.pin_images`.

Each `name:tag` in the Dockerfile and docker-compose.yml becomes `name:tag@sha256:…`, with the digest that the registry
has for it now. Images that this repository builds are left out.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
FILES: Final = ("Dockerfile", "docker-compose.yml")
# The digest of a pinned image is replaced.
_IMAGE: Final = re.compile(
    r"^(\s*(?:FROM|image:)\s+)((?!vsyncd:)[\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?", re.MULTILINE
)


def pin_images(text: str, digest_of: Callable[[str], str]) -> str:
    """Returns the text of a file with the digest of each image."""
    return _IMAGE.sub(lambda match: f"{match[1]}{match[2]}@{digest_of(match[2])}", text)


def _registry_digest(image: str) -> str:
    """Returns the digest of the image's index, which covers all platforms."""
    command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image]
    digest = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{image}: unexpected digest {digest!r}")
    return digest


def main() -> None:
    """Rewrite the files."""
    for path in (ROOT / name for name in FILES):
        path.write_text(pin_images(path.read_text(), _registry_digest))
        print(f"Pinned the images of {path.name}.")


if __name__ == "__main__":
    main()
