"""Take a concept over from another program's file."""

from pathlib import Path

from overture.core.errors import ConfigError
from overture.core.records.concept import ConceptImport
from overture.core.records.prompt import Concept, Lineage
from overture.data.task_text import slug
from overture.engine.diffusion_files import diffusion_info
from overture.exchange.embeddings import fitted_vectors, read_embedding
from overture.jobs.concept.keep import concept_manifest
from overture.jobs.concept.options import TOKEN, is_token
from overture.store.names import ref_of
from overture.store.store import Store


def import_concept(
    path: str | Path,
    store: Store,
    *,
    backbone: str,
    token: str | None = None,
    name: str | None = None,
    revision: str | None = None,
) -> ConceptImport:
    """Keep an embedding of textual inversion as a prompt of the store. The model's weights are not loaded.

    Args:
        path: a safetensors file of diffusers, a web UI or kohya's scripts, or a folder with one.
        store: where the prompt is kept.
        backbone: the model that it was made for; a file does not tell, so only widths can be checked.
        token: the word that stands for it; the file's own, or the file's name, when None.
        name: the prompt's name; from the token when None.
        revision: commit of a Hub model.

    Raises:
        ArtifactError: the file is a pickle, damaged, of no known form, or of a model of other widths.
        ConfigError: the token cannot be a word.
        BackboneError: there is no such model.
        StoreError: the name is wrong.
    """
    embedding = read_embedding(Path(path))
    stem = Path(embedding.where).stem
    token = token or embedding.token or (Path(path).name if Path(path).is_dir() else stem)
    if not is_token(token):
        raise ConfigError("the token cannot be a word", where="token", got=token, wanted=TOKEN, fix="--token '<NAME>'")
    name = name or slug(token)
    store.check_can_add(name)
    info = diffusion_info(backbone, revision)
    vectors = fitted_vectors(embedding, info.widths, backbone)
    lineage = Lineage(imported_from="safetensors")
    folder = store.add(concept_manifest(name, info, Concept(token=token), vectors, lineage=lineage), vectors)
    return ConceptImport(
        prompt=str(ref_of(folder)),
        folder=str(folder),
        backbone=info.id,
        token=token,
        length=len(next(iter(vectors.values()))),
        notices=[f"the file names no model, so only the widths of {info.id}'s text encoders were checked"],
    )
