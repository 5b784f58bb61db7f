"""The README's commands, run as they stand, in their order, on a real box.

Every ``sh`` and ``python`` block runs but those under a comment that begins ``not run by``. One
shell runs all, from a folder like a checkout's; the only changes are a free port for 8642, and a
wait after the block that starts the daemon, which takes a person longer to read than it to start.
"""

import re
import subprocess
import sys
from pathlib import Path

from support.daemon import ROOT, environment
from support.s3server import free_port

README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- not run by[^\n]*-->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r"^#+ (.*)$", re.MULTILINE)
PORT = "8642"
READY = "curl -sf --retry 100 --retry-delay 1 --retry-all-errors http://127.0.0.1:8642/readyz"
TIMEOUT_S = 240


def blocks() -> list[tuple[str, str]]:
    """(language, text) of those to run."""
    found = BLOCK.findall(README.read_text(encoding="utf-8"))
    return [(lang, text) for skipped, lang, text in found if lang != "toml" and not skipped]


def script(port: int) -> str:
    """All blocks as one shell script, each under a line with its number."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for number, (language, text) in enumerate(blocks()):
        lines.append(f"printf '\\n#{number}\\n'")
        match language:
            case "sh":
                lines.append(text)
            case "python":
                lines.append(f"python - <<'PYTHON'\n{text}PYTHON")
            case _:
                raise AssertionError(f"what is a {language} block?")
        if "edge-store serve" in text:
            lines.append(f"{READY} >/dev/null")
    return "\n".join(lines).replace(PORT, str(port))


def test_readme_commands_do_what_it_says(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    port = free_port()
    environ = environment(EDGE_STORE_SERVER__PORT=str(port))
    del environ["EDGE_STORE_REPLICA__ENABLED"]
    done = subprocess.run(
        ["timeout", "--kill-after=10", str(TIMEOUT_S), "bash", "-c", script(port)],
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S + 20,  # `timeout` ends the daemon too
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    _, _, chat, streamed, queried, restored, initialised = re.split(
        r"^#\d\n", done.stdout, flags=re.MULTILINE
    )[:7]
    assert '"chat.completion"' in chat
    assert "Tell me a story." in streamed
    assert queried.count("Tell me a story.") >= 1
    assert '"admitted":2,"completed":2,"interrupted":0' in queried
    assert "2 results of" in restored
    assert "checked: every page" in restored
    assert "1 of 1 boxes" in done.stderr
    assert '"results":2' in restored
    assert "otherbox" in initialised


def test_readme_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", text):
        target = ROOT / path
        assert target.exists(), path
        if anchor:
            slugs = {
                re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-").lower()
                for title in TITLE.findall(target.read_text(encoding="utf-8"))
            }
            assert anchor in slugs, f"{path}#{anchor}"
