"""The public API, for type checkers: the same names as `_MODULES` in `__init__.py`, which a test compares."""

from llama_cffi import ggml, mtmd
from llama_cffi._core.base_types import (
    DEFAULT_SEED as DEFAULT_SEED,
    TOKEN_NULL as TOKEN_NULL,
    Pos as Pos,
    ProgressCallback as ProgressCallback,
    SeqId as SeqId,
    Token as Token,
)
from llama_cffi._core.ffi import ffi as ffi, lib as lib
from llama_cffi._generated.enums import (
    AttentionType as AttentionType,
    FlashAttnType as FlashAttnType,
    Ftype as Ftype,
    LazyMode as LazyMode,
    LoadMode as LoadMode,
    ModelMetaKey as ModelMetaKey,
    PoolingType as PoolingType,
    ProcessType as ProcessType,
    RopeScalingType as RopeScalingType,
    RopeType as RopeType,
    SplitMode as SplitMode,
    TokenAttr as TokenAttr,
    VocabType as VocabType,
)
from llama_cffi.chat.answer import ChatAnswer as ChatAnswer
from llama_cffi.chat.answer_format import AnswerFormat as AnswerFormat
from llama_cffi.chat.apply_template import (
    ChatMessage as ChatMessage,
    chatApplyTemplate as chatApplyTemplate,
    chatBuiltinTemplates as chatBuiltinTemplates,
)
from llama_cffi.chat.events import ChatEvent as ChatEvent
from llama_cffi.chat.session import ChatSession as ChatSession
from llama_cffi.chat.template import ChatTemplate as ChatTemplate
from llama_cffi.chat.tool_calls import (
    ParsedAnswer as ParsedAnswer,
    ToolCall as ToolCall,
    ToolFormat as ToolFormat,
    parseToolCalls as parseToolCalls,
)
from llama_cffi.constrain.constraint import Constraint as Constraint
from llama_cffi.context.batch import Batch as Batch
from llama_cffi.context.batch_ext import BatchExt as BatchExt
from llama_cffi.context.compute_callbacks import EvalTensor as EvalTensor
from llama_cffi.context.context import Context as Context
from llama_cffi.context.fine_tune import fineTune as fineTune
from llama_cffi.context.memory import Memory as Memory
from llama_cffi.context.outputs import PerfContextData as PerfContextData
from llama_cffi.context.samplers import SamplerSeqConfig as SamplerSeqConfig
from llama_cffi.embedding.embedding import Embedder as Embedder, Reranker as Reranker
from llama_cffi.engine.engine import (
    Engine as Engine,
    EngineLoad as EngineLoad,
    EngineTotals as EngineTotals,
    Request as Request,
    RequestUsage as RequestUsage,
)
from llama_cffi.errors import (
    AdapterError as AdapterError,
    BusyError as BusyError,
    ClosedError as ClosedError,
    ContextError as ContextError,
    ContextFullError as ContextFullError,
    DecodeError as DecodeError,
    ForkError as ForkError,
    GrammarError as GrammarError,
    LlamaError as LlamaError,
    ModelLoadError as ModelLoadError,
    NativeAssertionError as NativeAssertionError,
    NativeError as NativeError,
    NativeMemoryError as NativeMemoryError,
    QueueFullError as QueueFullError,
    RpcError as RpcError,
    StateError as StateError,
    UnavailableError as UnavailableError,
)
from llama_cffi.generation.default_sampler import defaultSampler as defaultSampler
from llama_cffi.generation.draft_model import DraftModel as DraftModel
from llama_cffi.generation.generation import Generation as Generation, GenerationSteps as GenerationSteps
from llama_cffi.generation.prompt_cache.cache import PromptCache as PromptCache, PromptCacheTotals as PromptCacheTotals
from llama_cffi.generation.prompt_lookup import PromptLookup as PromptLookup
from llama_cffi.generation.score import Score as Score
from llama_cffi.generation.steps import (
    Alternative as Alternative,
    GenerationStep as GenerationStep,
    StopReason as StopReason,
    Usage as Usage,
)
from llama_cffi.llm.completion import ChatCompletion as ChatCompletion, Completion as Completion
from llama_cffi.llm.llm import LLM as LLM
from llama_cffi.llm.load import load as load
from llama_cffi.log import logGet as logGet, logSet as logSet
from llama_cffi.model.adapter import Adapter as Adapter
from llama_cffi.model.model import Model as Model
from llama_cffi.model.params import TensorBuftOverride as TensorBuftOverride
from llama_cffi.sampling.chain import PerfSamplerData as PerfSamplerData
from llama_cffi.sampling.interface import SamplerI as SamplerI
from llama_cffi.sampling.sampler import Sampler as Sampler
from llama_cffi.sampling.token_data import TokenData as TokenData
from llama_cffi.sampling.token_data_array import TokenDataArray as TokenDataArray
from llama_cffi.scoring.perplexity import Perplexity as Perplexity, perplexity as perplexity
from llama_cffi.scoring.score import Choice as Choice, choose as choose, score as score
from llama_cffi.system import (
    backendFree as backendFree,
    backendInit as backendInit,
    flashAttnTypeName as flashAttnTypeName,
    ftypeName as ftypeName,
    loadModeFromStr as loadModeFromStr,
    loadModeName as loadModeName,
    maxDevices as maxDevices,
    maxParallelSequences as maxParallelSequences,
    maxTensorBuftOverrides as maxTensorBuftOverrides,
    numaInit as numaInit,
    printSystemInfo as printSystemInfo,
    splitPath as splitPath,
    splitPrefix as splitPrefix,
    supportsGpuOffload as supportsGpuOffload,
    supportsMlock as supportsMlock,
    supportsMmap as supportsMmap,
    supportsRpc as supportsRpc,
    timeUs as timeUs,
    version as version,
)
from llama_cffi.vocab.infill import infillPrompt as infillPrompt
from llama_cffi.vocab.tokenize import detokenize as detokenize, tokenize as tokenize
from llama_cffi.vocab.vocab import Vocab as Vocab

__version__: str

Ggml = ggml
Mtmd = mtmd
