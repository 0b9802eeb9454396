"""Write questions as sounds, spoken by espeak-ng and flite, with a table of what is said: rows of a transcription task.

    python bench/speech/questions.py --data DIR OUT      # OUT/train, OUT/validation, OUT/test, OUT/test-flite

Training and validation rows are spoken by 24 voices, test rows by six others; `test-flite` holds the test rows in the four
voices of another program. No question is in two of the three splits.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Alex Alicia Andrea Annie Lee Marco Michael adam anika belinda boris".split()
)
TEST_VARIANTS = "caleb david ed grandma john linda".split()
ACCENTS = "en-us en-gb en-gb-scotland".split()
MOST_WORDS = 12  # such a question fits in a window of eight seconds
FLITE_VOICES = "awb rms slt kal16".split()


def spoken_text(tokenised: str) -> str:
    """A question of the TREC files as one writes it: no space in front of what ends or shortens a word."""
    text = tokenised
    for mark in ("?", ",", ".", ":", ";", "'s", "n't", "'", "''"):
        text = text.replace(f" {mark}", mark)
    return text.replace("`` ", '"').replace("''", '"')


def write_sounds(folder: Path, texts: list[str], voices: list[str], program: str) -> None:
    """One WAV file for each text, voices in turn, and `metadata.csv` (JSON lines, since texts hold commas)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, text in enumerate(texts):
        voice, name = voices[number % len(voices)], f"{number:04}.wav"
        if program == "flite":
            command = ["flite", "-voice", voice, "-t", text, "-o", name]
        else:
            accent = ACCENTS[number % len(voices) % len(ACCENTS)]
            command = [
                "espeak-ng",
                "-v",
                f"{accent}+{voice}",
                "-s",
                str(130 + number * 17 % 70),
                "-w",
                name,
                "--",
                text,
            ]
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        rows.append({"file_name": name, "text": text, "voice": voice})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder that holds trec/train.jsonl and the others"
    )
    parser.add_argument("--rows", type=int, nargs=3, default=(240, 60, 200), help="training, validation, test rows")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    if missing := [program for program in ("espeak-ng", "flite") if not shutil.which(program)]:
        sys.exit(f"{' and '.join(missing)} not found; on Debian: apt-get install {' '.join(missing)}")
    for split, count in zip(("train", "validation", "test"), args.rows, strict=True):
        lines = (args.data / "trec" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [spoken_text(json.loads(line)["text"]) for line in lines]
        texts = [text for text in texts if len(text.split()) <= MOST_WORDS][:count]
        write_sounds(args.out / split, texts, TEST_VARIANTS if split == "test" else VARIANTS, "espeak-ng")
        if split == "test":
            write_sounds(args.out / "test-flite", texts, FLITE_VOICES, "flite")


if __name__ == "__main__":
    main()
