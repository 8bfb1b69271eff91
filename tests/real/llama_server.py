"""llama.cpp's own HTTP server, in this process: prints its URL once it answers.

`llama_server.py MODEL.gguf SLOTS [embeddings]`
"""

import signal
import sys

import xllamacpp

from programs import MODEL, answers, free_port

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_parallel = int(sys.argv[2])
parameters.n_ctx = 1024 * parameters.n_parallel  # the slots share it
parameters.cpuparams.n_threads = 1  # the sidecar and the clients need the other core
parameters.hostnames = ["127.0.0.1"]
parameters.port = free_port()
parameters.model_alias = {MODEL}
if "embeddings" in sys.argv[3:]:
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(parameters)
assert answers(f"http://127.0.0.1:{parameters.port}/health"), "the server does not answer"
print(f"http://127.0.0.1:{parameters.port}", flush=True)
signal.pause()
