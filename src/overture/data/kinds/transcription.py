"""The words that are said in a sound. Everything but what counts is as in `generation`."""

from dataclasses import replace

from overture.data.kinds import generation

KIND = replace(
    generation.KIND,
    name="transcription",
    title="the words of a sound",
    # 1 - WER, so that a larger value is better; the rate itself is reported beside it.
    metrics=("word_accuracy", "exact_match", "exact_text", "chrf"),
    reported=("wer",),
)
