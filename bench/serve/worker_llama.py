"""llama.cpp's server in float32, for `worker.py`: processor seconds of 16 requests at once, 36 tokens in, 24 out.

It runs in a Python of its own, with xllamacpp and gguf; called as

    PYTHON worker_llama.py FOLDER REPEATS THREADS MODEL.gguf

and prints one line of JSON. Requests enter the server's own handler, without HTTP.
"""

import argparse
import json
import threading
import time
from pathlib import Path


def in_float32(source: str, target: Path) -> None:
    """The model of a GGUF file with all its tensors in float32."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(str(target), bytes(reader.fields["general.architecture"].parts[-1]).decode())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    writer.add_uint32("general.file_type", 0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the float32 copy goes")
    parser.add_argument("repeats", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("model", help="a GGUF file")
    options = parser.parse_args()
    folder, num_repeats, num_threads = options.folder, options.repeats, options.threads
    in_float32(options.model, folder / "model.gguf")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "model.gguf")
    params.n_parallel, params.n_ctx = 16, 16 * 128
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = num_threads
    params.warmup = True
    server = xllamacpp.Server(params)
    seeds = iter(range(1 << 30))

    def ask() -> None:
        seed = next(seeds)
        prompt = [1000 + (seed * 37 + n * 11) % 20_000 for n in range(36)]
        options = {"prompt": prompt, "n_predict": 24, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        reply = server.handle_completions(options)
        reply = json.loads(reply) if isinstance(reply, str) else reply
        written.append(reply["usage"]["completion_tokens"])

    written: list[int] = []
    ask()
    seconds = []
    for _ in range(num_repeats):
        written.clear()
        started = time.process_time()
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds.append(time.process_time() - started)
        assert written == [24] * 16, written
    print(json.dumps({"cpu_seconds": seconds, "build": str(xllamacpp.BUILD_INFO)}))


if __name__ == "__main__":
    main()
