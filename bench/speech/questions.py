"""Write questions as sounds, spoken by espeak-ng and flite, with a table of what is said: rows of a transcription task.

    python bench/speech/questions.py --data DIR OUT      # OUT/train, OUT/validation, OUT/test, OUT/test-flite

Training and validation rows are spoken by 24 voices, test rows by six others; `test-flite` holds the test rows in the
four voices of another program. No question is in two of the three splits.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

VOICES = [
    *(f"m{number}" for number in range(1, 9)),
    *(f"f{number}" for number in range(1, 6)),
    *("Alex", "Alicia", "Andrea", "Annie", "Lee", "Marco", "Michael", "adam", "anika", "belinda", "boris"),
]
TEST_VOICES = ["caleb", "david", "ed", "grandma", "john", "linda"]
ACCENTS = ["en-us", "en-gb", "en-gb-scotland"]
FLITE_VOICES = ["awb", "rms", "slt", "kal16"]
MOST_WORDS = 12
"""Questions of so many words fit in a window of eight seconds."""


def spoken_text(tokenised: str) -> str:
    """A question of the TREC files as one writes it: no space in front of what ends or shortens a word."""
    text = tokenised
    for mark in ("?", ",", ".", ":", ";", "n't", "'"):
        text = text.replace(f" {mark}", mark)
    return text.replace("`` ", '"').replace("''", '"')


def espeak(text: str, number: int, voice: str, name: str) -> list[str]:
    """The command for the sound of one text: accent and speed change from row to row."""
    # The accent belongs to the voice, so that no voice of one split has another's name and accent.
    accent = ACCENTS[(VOICES + TEST_VOICES).index(voice) % len(ACCENTS)]
    words_a_minute = 130 + number * 17 % 70
    return ["espeak-ng", "-v", f"{accent}+{voice}", "-s", str(words_a_minute), "-w", name, "--", text]


def flite(text: str, number: int, voice: str, name: str) -> list[str]:
    """The command for the sound of one text."""
    return ["flite", "-voice", voice, "-t", text, "-o", name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds trec/train.jsonl")
    parser.add_argument("--rows", type=int, nargs=3, default=(240, 60, 200), help="training, validation, test rows")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    if missing := [program for program in ("espeak-ng", "flite") if not shutil.which(program)]:
        sys.exit(f"{' and '.join(missing)} not found; on Debian: apt-get install {' '.join(missing)}")
    num_train, num_validation, num_test = args.rows
    parts = [
        ("train", "train", num_train, VOICES, espeak),
        ("validation", "validation", num_validation, VOICES, espeak),
        ("test", "test", num_test, TEST_VOICES, espeak),
        ("test-flite", "test", num_test, FLITE_VOICES, flite),
    ]
    for part, split, num_rows, voices, command_of in parts:
        lines = (args.data / "trec" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [text for line in lines if len((text := spoken_text(json.loads(line)["text"])).split()) <= MOST_WORDS]
        folder = args.out / part
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, text in enumerate(texts[:num_rows]):
            voice, name = voices[number % len(voices)], f"{number:04}.wav"
            command = command_of(text, number, voice, name)
            subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
            rows.append({"file_name": name, "text": text, "voice": voice})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
