"""The public API as the fuzzer calls it: for each name, steps with placeholders for their arguments.

`{kind}` is a value of that kind (see `values.py`), sometimes absurd; `{kind!}` is never absurd: what a method is called
on. `kind = ...` keeps the result. The groups are the rules of the machine; `test_fuzz.py` holds them to the public API.
"""

from __future__ import annotations

Group = dict[str, tuple[str, ...]]

MODELS: Group = {
    "Model.load": ("model = load({modelname!})", "model = Model.load({modelfile})", "model = Model.load({modelfile}, {mparams})"),
    "Model.loadSplits": ("model = Model.loadSplits([{modelfile}], {count})", "Model.loadSplits({absurd})"),
    "Model.Params": ("mparams = Model.Params({mfields})", "model = load({modelname!}, {mfields})"),
    "Model.getDefaultParams": ("mparams = Model.getDefaultParams()",),
    "Model.QuantizeParams": ("qparams = Model.QuantizeParams({qfields})",),
    "Model.quantizeDefaultParams": ("qparams = Model.quantizeDefaultParams()",),
    "Model.quantize": ("Model.quantize({modelfile}, {outfile}, {qparams})", "Model.quantize({modelfile}, {outfile})"),
    "Model.save": ("{model!}.save({outfile})",),
    "Model.vocab": ("vocab = {model!}.vocab",),
    "TensorBuftOverride": ("TensorBuftOverride({text}, {buft})",),
    "Adapter.loraInit": ("adapter = Adapter.loraInit({model}, {lorafile})",) * 2,
}

MODEL_INFO: Group = {
    f"Model.{name}": (f"{{model!}}.{name}",)
    for name in """
        hasEncoder hasDecoder hasDencoder isRecurrent isHybrid isDiffusion decoderStartToken nCtxTrain nEmbd nLayer nHead
        nHeadKv nEmbdInp nEmbdOut nLayerNextn nSwa nClsOut ropeType ropeFreqScaleTrain size nParams ftype metaCount closed
    """.split()
} | {
    "Model.desc": ("{model!}.desc()", "{model!}.desc({buffer})"),
    "Model.clsLabel": ("{model!}.clsLabel({idx})",),
    "Model.chatTemplate": ("{model!}.chatTemplate()", "{model!}.chatTemplate({text})"),
    "Model.metaKeyStr": ("Model.metaKeyStr({enum})", "Model.metaKeyStr(ModelMetaKey({enum}))"),
    "Model.metaValStr": ("{model!}.metaValStr({key})", "{model!}.metaValStr({key}, {buffer})"),
    "Model.metaKeyByIndex": ("{model!}.metaKeyByIndex({idx})", "{model!}.metaKeyByIndex({idx}, {buffer})"),
    "Model.metaValStrByIndex": ("{model!}.metaValStrByIndex({idx})", "{model!}.metaValStrByIndex({idx}, {buffer})"),
    "Adapter.metaCount": ("{adapter!}.metaCount",),
    "Adapter.metaValStr": ("{adapter!}.metaValStr({key})", "{adapter!}.metaValStr({key}, {buffer})"),
    "Adapter.metaKeyByIndex": ("{adapter!}.metaKeyByIndex({idx})", "{adapter!}.metaKeyByIndex({idx}, {buffer})"),
    "Adapter.metaValStrByIndex": ("{adapter!}.metaValStrByIndex({idx})", "{adapter!}.metaValStrByIndex({idx}, {buffer})"),
    "Adapter.getAloraInvocationTokens": ("{adapter!}.getAloraInvocationTokens()",),
    "Adapter.getAloraNInvocationTokens": ("{adapter!}.getAloraNInvocationTokens()",),
    "Adapter.closed": ("{adapter!}.closed",),
}

CONTEXTS: Group = {
    "Context.initFromModel": (
        "ctx = Context.initFromModel({model!}, Context.Params({cfields}))",
        "ctx = Context.initFromModel({model!}, Context.Params({cfields}))",
        "ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, embeddings=True, poolingType={enum}))",
        "ctx = Context.initFromModel({model}, {cparams})",
    ),
    "Context.Params": ("cparams = Context.Params({cfields})", "cparams = Context.Params({cfields})"),
    "Context.getDefaultParams": ("cparams = Context.getDefaultParams()",),
    "Context.getModel": ("model = {ctx!}.getModel()",),
    "Context.getMemory": ("memory = {ctx!}.getMemory()",),
    "EvalTensor.name": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, cbEval=lambda t, ask: t.name))",),
    "EvalTensor.op": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, cbEval=lambda t, ask: t.op))",),
    "EvalTensor.type": ("use(*[t.type for t in KEPT if isinstance(t, EvalTensor)])",),
    "EvalTensor.shape": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, cbEval=lambda t, ask: t.shape))",),
    "EvalTensor.data": (
        "ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, cbEval=lambda t, ask: ask or KEPT.append(t.data)))",
    ),
}

CALLBACKS: Group = {
    "cbEval": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, nThreads=1, cbEval={eval!}))",) * 2,
    "cbEvalData": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, cbEval={fn}, cbEvalData={any!}))",),
    "abortCb": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, nThreads=1, abortCb={fn}))",),
    "abortCbData": ("ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, abortCb={fn}, abortCbData={any!}))",),
    "progressCallback": ("model = load({modelname!}, progressCallback={fn})",),
    "progressCallbackUserData": ("model = load({modelname!}, progressCallback={fn}, progressCallbackUserData={any!})",),
    "Context.setAbortCallback": ("{ctx!}.setAbortCallback({fn})", "{ctx!}.setAbortCallback(None)"),
}

COMPUTE: Group = {
    "Context.decode": (
        "{ctx!}.decode(Batch.getOne({tokens}))",
        "{ctx!}.decode(Batch.getOne({tokens!}))",
        "{ctx!}.decode({batch})",
        "{ctx!}.decode({batch})",
    ),
    "Context.encode": ("{ctx!}.encode(Batch.getOne({tokens!}))", "{ctx!}.encode({batch})"),
    "Context.process": ("{ctx!}.process({process}, {ext})", "{ext!}._context.process({process}, {ext!})"),
    "Context.synchronize": ("{ctx!}.synchronize()",),
    "Sampler.sample": ("{sampler!}.sample({ctx}, {idx})", "{chain!}.sample({ctx}, {idx})", "{chain!}.sample({ctx!})"),
}

OUTPUTS: Group = {
    f"Context.{name}": (f"view = {{ctx!}}.{name}({{idx}})", f"view = np.asarray({{ctx!}}.{name}({{idx}}))")
    for name in "getLogitsIth getEmbeddingsIth getEmbeddingsSeq getSampledProbsIth getSampledLogitsIth".split()
} | {
    "Context.getLogits": ("view = {ctx!}.getLogits()", "view = np.asarray({ctx!}.getLogits())"),
    "Context.getEmbeddings": ("view = {ctx!}.getEmbeddings()", "view = np.asarray({ctx!}.getEmbeddings())"),
    "Context.getSampledTokenIth": ("{ctx!}.getSampledTokenIth({idx})",),
    "Context.getSampledCandidatesIth": ("{ctx!}.getSampledCandidatesIth({idx})",),
    "Context.getSampledProbsCountIth": ("{ctx!}.getSampledProbsCountIth({idx})",),
    "Context.getSampledLogitsCountIth": ("{ctx!}.getSampledLogitsCountIth({idx})",),
    "Context.getSampledCandidatesCountIth": ("{ctx!}.getSampledCandidatesCountIth({idx})",),
}

VIEWS: Group = {
    "memoryview": ("use({view!})", "use(*KEPT)", "put({view!}, {idx}, {float})", "view = memoryview({view!})", "release({view!})"),
}

BATCHES: Group = {
    "Batch.getOne": ("batch = Batch.getOne({tokens})", "batch = Batch.getOne({tokens}, {count})"),
    "Batch.init": ("batch = Batch.init({count})", "batch = Batch.init({count}, {count}, {seq})", "batch = Batch.init(8, 32, 2)"),
    "Batch.add": ("{batch!}.add({token}, {pos}, ({seq},), {flag})", "{batch!}.add({token}, {pos})", "{batch!}.add({token}, {pos}, {absurd})"),
    "Batch.clear": ("{batch!}.clear()",),
    "Batch.nTokens": ("{batch!}.nTokens", "{batch!}.nTokens = {count}"),
    "Batch.token": ("put({batch!}.token, {idx}, {token})", "view = {batch!}.token"),
    "Batch.embd": ("put({batch!}.embd, {idx}, {float})", "view = {batch!}.embd"),
    "Batch.pos": ("put({batch!}.pos, {idx}, {pos})", "view = {batch!}.pos"),
    "Batch.nSeqId": ("put({batch!}.nSeqId, {idx}, {seq})", "view = {batch!}.nSeqId"),
    "Batch.seqId": ("put({batch!}.seqId[0], {idx}, {seq})", "view = {batch!}.seqId[{idx}]"),
    "Batch.output": ("put({batch!}.output, {idx}, {flag})", "view = {batch!}.output"),
    "BatchExt.init": ("ext = BatchExt.init({ctx})", "ext = BatchExt.init({ctx!})"),
    "BatchExt.add": ("{ext!}.add({seq})",),
    "BatchExt.addToken": ("{ext!}.addToken({seq}, {token})", "{ext!}.setPos({ext!}.addToken(0, {token}), {pos})"),
    "BatchExt.addEmbd": ("{ext!}.addEmbd({seq}, {floats})", "{ext!}.setPos({ext!}.addEmbd(0, np.zeros(32, np.float32)), {pos})"),
    "BatchExt.addSeq": ("{ext!}.addSeq({idx}, {seq})",),
    "BatchExt.setEmbdState": ("{ext!}.setEmbdState({idx}, {floats})",),
    "BatchExt.setEmbdToken": ("{ext!}.setEmbdToken({idx}, {floats})",),
    "BatchExt.setOutputEmbd": ("{ext!}.setOutputEmbd({idx}, {flag})",),
    "BatchExt.setOutputLogits": ("{ext!}.setOutputLogits({idx}, {flag})",),
    "BatchExt.setPos": ("{ext!}.setPos({idx}, {pos})", "{ext!}.setPos({idx}, [{pos}] * 4)"),
    "BatchExt.clear": ("{ext!}.clear()",),
    "BatchExt.closed": ("{ext!}.closed", "use({ext!})"),
}

MEMORY: Group = {
    "Memory.clear": ("{memory!}.clear({flag})",),
    "Memory.seqRemove": ("{memory!}.seqRemove({seq}, {pos}, {pos})", "{memory!}.seqRemove({pos})"),
    "Memory.seqCopy": ("{memory!}.seqCopy({seq}, {seq}, {pos}, {pos})", "{memory!}.seqCopy(0, 1)"),
    "Memory.seqKeep": ("{memory!}.seqKeep({seq})",),
    "Memory.seqAdd": ("{memory!}.seqAdd({seq}, {pos}, {pos}, {small})",),
    "Memory.seqDiv": ("{memory!}.seqDiv({seq}, {pos}, {pos}, {small})",),
    "Memory.canShift": ("{memory!}.canShift()",),
    "Memory.seqPosMin": ("{memory!}.seqPosMin({seq})",),
    "Memory.seqPosMax": ("{memory!}.seqPosMax({seq})",),
}

STATE: Group = {
    "Context.stateSize": ("{ctx!}.stateSize",),
    "Context.stateGetData": ("state = {ctx!}.stateGetData()", "{ctx!}.stateGetData({buffer})"),
    "Context.stateSetData": (
        "{ctx!}.stateSetData({state})",
        "{ctx!}.stateSetData(corrupted({state!}, {pos!} * {pos!}, {small!}))",
        "{ctx!}.stateSetData({state!}[:{pos!} * 9])",
        "{ctx!}.stateSetData({state}, {count})",
    ),
    "Context.stateSaveFile": ("{ctx!}.stateSaveFile({savefile}, {tokens})", "{ctx!}.stateSaveFile(file('state'), {tokens}, {count})"),
    "Context.stateLoadFile": ("{ctx!}.stateLoadFile({statefile})", "{ctx!}.stateLoadFile(write('bad', corrupted({state!}, {count!}, 1)))"),
    "Context.stateSeqGetSize": ("{ctx!}.stateSeqGetSize({seq})", "{ctx!}.stateSeqGetSize({seq}, {small})"),
    "Context.stateSeqGetData": (
        "state = {ctx!}.stateSeqGetData(None, None, {seq})",
        "{ctx!}.stateSeqGetData({buffer}, {seq})",
        "state = {ctx!}.stateSeqGetData(None, None, {seq}, {small})",
    ),
    "Context.stateSeqSetData": (
        "{ctx!}.stateSeqSetData({state}, None, {seq})",
        "{ctx!}.stateSeqSetData(corrupted({state!}, {pos!} * {pos!}, {small!}), None, {seq})",
        "{ctx!}.stateSeqSetData({state}, {count}, {seq}, {small})",
    ),
    "Context.stateSeqSaveFile": ("{ctx!}.stateSeqSaveFile(file('seqstate'), {seq}, {tokens})", "{ctx!}.stateSeqSaveFile({savefile}, {seq})"),
    "Context.stateSeqLoadFile": ("{ctx!}.stateSeqLoadFile({statefile}, {seq})",),
}

TUNING: Group = {
    "Context.setAdapterLora": ("{ctx!}.setAdapterLora({adapter}, {float})",) * 2,
    "Context.setAdaptersLora": ("{ctx!}.setAdaptersLora([{adapter}, {adapter}], [{float}, {float}])", "{ctx!}.setAdaptersLora({absurd})"),
    "Context.removeAdapterLora": ("{ctx!}.removeAdapterLora({adapter})",),
    "Context.clearAdapterLora": ("{ctx!}.clearAdapterLora()",),
    "Context.setAdapterCvec": ("{ctx!}.setAdapterCvec({floats}, {count}, {count}, {idx}, {idx})", "{ctx!}.setAdapterCvec({floats})"),
    "Context.setNThreads": ("{ctx!}.setNThreads({threads})", "{ctx!}.setNThreads({threads}, {threads})"),
    "Context.attachThreadpool": ("{ctx!}.attachThreadpool({pool})", "{ctx!}.attachThreadpool({pool}, {pool})"),
    "Context.detachThreadpool": ("{ctx!}.detachThreadpool()",),
    "Context.setEmbeddings": ("{ctx!}.setEmbeddings({flag})",),
    "Context.setCausalAttn": ("{ctx!}.setCausalAttn({flag})",),
    "Context.getCausalAttn": ("{ctx!}.getCausalAttn()",),
    "Context.setWarmup": ("{ctx!}.setWarmup({flag})",),
    "Context.setSampler": ("{ctx!}.setSampler({seq}, {chain})", "{ctx!}.setSampler({seq}, None)"),
    "Context.perfContext": ("perf = {ctx!}.perfContext",),
    "Context.perfContextPrint": ("{ctx!}.perfContextPrint()",),
    "Context.perfContextReset": ("{ctx!}.perfContextReset()",),
} | {
    f"Context.{name}": (f"{{ctx!}}.{name}",)
    for name in "nCtx nCtxSeq nBatch nUbatch nSeqMax nRsSeq nThreads nThreadsBatch poolingType closed".split()
}

PARAMS: Group = {
    "Params": (
        "setattr({cparams!}, {cname!}, {absurd})",
        "setattr({mparams!}, {mname!}, {absurd})",
        "setattr({qparams!}, {qname!}, {absurd})",
        "setattr({sparams!}, {sname!}, {absurd})",
        "repr({cparams!}), {cparams!} == {cparams!}",
        "repr({mparams!}), {mparams!} == {cparams!}",
        "repr({qparams!}), repr({sparams!})",
    ),
    "PerfContextData": ("perf = PerfContextData()", "repr({perf!})", "{perf!}.nEval = {absurd}"),
    "PerfContextData.nEval": ("{perf!}.nEval, {perf!}.nPEval, {perf!}.nReused",),
    "PerfContextData.nPEval": ("{perf!}.nPEval = {count}",),
    "PerfContextData.nReused": ("{perf!}.nReused = {count}",),
    "PerfContextData.tEvalMs": ("{perf!}.tEvalMs",),
    "PerfContextData.tLoadMs": ("{perf!}.tLoadMs = {float}",),
    "PerfContextData.tPEvalMs": ("{perf!}.tPEvalMs",),
    "PerfContextData.tStartMs": ("{perf!}.tStartMs",),
    "PerfSamplerData.nSample": ("PerfSamplerData(nSample={count}).nSample",),
    "PerfSamplerData.tSampleMs": ("PerfSamplerData(tSampleMs={float}).tSampleMs",),
}

SAMPLERS: Group = {
    "Sampler.init": (
        "sampler = Sampler.init(custom({apply!}))",
        "sampler = Sampler.init(custom({apply!}, accept={fn}, reset={fn}, clone={fn}, name={text}))",
        "sampler = Sampler.init(custom({fn}, clone=lambda: custom({apply!})), {absurd})",
        "sampler = Sampler.init({absurd})",
    ),
    "SamplerI.apply": ("sampler = Sampler.init(custom(lambda k: ({call!})))",),
    "Sampler.initGreedy": ("sampler = Sampler.initGreedy()",) * 2,
    "Sampler.initDist": ("sampler = Sampler.initDist({seed})",) * 2,
    "Sampler.initMirostat": ("sampler = Sampler.initMirostat({vocab}, {seed}, {float}, {float}, {count})", "sampler = Sampler.initMirostat({vocab!}, 1)"),
    "Sampler.initMirostatV2": ("sampler = Sampler.initMirostatV2({seed}, {float}, {float})",),
    "Sampler.initAdaptiveP": ("sampler = Sampler.initAdaptiveP({float}, {float}, {seed})",),
    "Sampler.initTopK": ("sampler = Sampler.initTopK({small})",),
    "Sampler.initTopP": ("sampler = Sampler.initTopP({float}, {count})",),
    "Sampler.initMinP": ("sampler = Sampler.initMinP({float}, {count})",),
    "Sampler.initTypical": ("sampler = Sampler.initTypical({float}, {count})",),
    "Sampler.initXtc": ("sampler = Sampler.initXtc({float}, {float}, {count}, {seed})",),
    "Sampler.initTopNSigma": ("sampler = Sampler.initTopNSigma({float})",),
    "Sampler.initTemp": ("sampler = Sampler.initTemp({float})",),
    "Sampler.initTempExt": ("sampler = Sampler.initTempExt({float}, {float}, {float})",),
    "Sampler.initPenalties": ("sampler = Sampler.initPenalties({small}, {float}, {float}, {float})",),
    "Sampler.initLogitBias": ("sampler = Sampler.initLogitBias({vocab}, {bias})",),
    "Sampler.initDry": ("sampler = Sampler.initDry({vocab}, {float}, {float}, {small}, {small}, [{text}])", "sampler = Sampler.initDry({vocab!}, 1.0)"),
    "Sampler.initInfill": ("sampler = Sampler.initInfill({vocab})",),
    "Sampler.initGrammar": ("sampler = Sampler.initGrammar({vocab}, {grammar}, {root})", "sampler = Sampler.initGrammar({vocab!}, {grammar!})"),
    "Sampler.initGrammarLazyPatterns": (
        "sampler = Sampler.initGrammarLazyPatterns({vocab}, {grammar}, {root}, {patterns}, {tokens})",
        "sampler = Sampler.initGrammarLazyPatterns({vocab!}, {grammar!}, 'root', {patterns!}, [7])",
    ),
    "Sampler.accept": ("{sampler!}.accept({token})", "{chain!}.accept({token})"),
    "Sampler.apply": ("{sampler!}.apply({cands})", "{chain!}.apply({cands})"),
    "Sampler.reset": ("{sampler!}.reset()", "{chain!}.reset()"),
    "Sampler.clone": ("sampler = {sampler!}.clone()", "chain = {chain!}.clone()"),
    "Sampler.copy": ("{sampler!}.copy({sampler})", "{chain!}.copy({chain})"),
    "Sampler.name": ("{sampler!}.name", "{chain!}.name"),
    "Sampler.getSeed": ("{sampler!}.getSeed()", "{chain!}.getSeed()"),
    "Sampler.closed": ("{sampler!}.closed",),
}

CHAINS: Group = {
    "Sampler.chainInit": ("chain = Sampler.chainInit()", "chain = Sampler.chainInit({sparams})"),
    "Sampler.ChainParams": ("sparams = Sampler.ChainParams({sfields})",),
    "Sampler.chainDefaultParams": ("sparams = Sampler.chainDefaultParams()",),
    "Sampler.chainAdd": ("{chain!}.chainAdd({sampler})", "{chain!}.chainAdd({sampler!})", "{chain!}.chainAdd({chain})", "{sampler!}.chainAdd({sampler!})"),
    "Sampler.chainGet": ("sampler = {chain!}.chainGet({idx})",),
    "Sampler.chainRemove": ("sampler = {chain!}.chainRemove({idx})",),
    "Sampler.chainCount": ("{chain!}.chainCount", "{sampler!}.chainCount"),
    "Sampler.perfSampler": ("{chain!}.perfSampler", "{sampler!}.perfSampler"),
    "Sampler.perfSamplerPrint": ("{chain!}.perfSamplerPrint()",),
    "Sampler.perfSamplerReset": ("{chain!}.perfSamplerReset()",),
    "SamplerSeqConfig": ("config = SamplerSeqConfig({seq}, {chain})", "config = SamplerSeqConfig({absurd}, {absurd})"),
    "SamplerSeqConfig.seqId": ("{config!}.seqId = {absurd}", "{config!} == {config!}"),
    "SamplerSeqConfig.sampler": (
        "{config!}.sampler = {absurd}",
        "ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, samplers=[{config!}]))",
    ),
}

CANDIDATES: Group = {
    "TokenDataArray": ("cands = TokenDataArray({rows})", "cands = TokenDataArray({absurd})", "cands = TokenDataArray({cands})"),
    "TokenDataArray.fromLogits": ("cands = TokenDataArray.fromLogits({floats})", "cands = TokenDataArray.fromLogits({view})"),
    "TokenDataArray.dtype": ("TokenDataArray.dtype()", "cands = TokenDataArray(np.zeros({count!}, TokenDataArray.dtype()))"),
    "TokenDataArray.data": ("{cands!}.data = {rows}", "put({cands!}.data, {idx}, (1, 2.0))", "len({cands!}.data)"),
    "TokenDataArray.size": ("{cands!}.size = {count}", "{cands!}.size"),
    "TokenDataArray.selected": ("{cands!}.selected = {idx}", "{cands!}.selected"),
    "TokenDataArray.sorted": ("{cands!}.sorted = {flag}", "{cands!}.sorted"),
    "TokenDataArray.sort": ("{cands!}.sort()",),
    "TokenDataArray.view": ("view = {cands!}.view()", "view = np.asarray({cands!})"),
    "TokenDataArray.__setitem__": ("put({cands!}, {idx}, ({token}, {float}))", "put({cands!}, {idx}, {absurd})", "fill({cands!}, {float})"),
    "TokenDataArray.__getitem__": ("row = {cands!}[{idx}]", "use({cands!})"),
    "TokenData": ("row = TokenData(id={token}, logit={float}, p={float})", "use({row!})"),
    "TokenData.id": ("{row!}.id = {token}", "{row!}.id"),
    "TokenData.logit": ("{row!}.logit = {float}", "{row!}.logit"),
    "TokenData.p": ("{row!}.p = {float}", "{row!}.p"),
}

TEXT: Group = {
    "tokenize": ("tokenize({vocab}, {text})", "tokenize({vocab!}, {text}, {count})", "tokenize({vocab!}, {text}, None, {tokenbuffer}, {flag}, {flag})", "tokenize({vocab!}, {absurd}, addSpecial={flag}, parseSpecial={flag})"),
    "detokenize": ("detokenize({vocab}, {tokens})", "detokenize({vocab!}, {tokens}, {count})", "detokenize({vocab!}, {tokens}, None, {buffer}, {flag}, {flag})"),
    "chatApplyTemplate": ("chatApplyTemplate({template}, [{message!}])", "chatApplyTemplate({model}, [{message}], {count})", "chatApplyTemplate({template}, [{message!}], 1, {flag}, {buffer})", "chatApplyTemplate({template}, {absurd}, model={model})"),
    "chatBuiltinTemplates": ("chatBuiltinTemplates()", "chatBuiltinTemplates(ffi.new('char *[]', 9), {count})", "chatBuiltinTemplates({absurd}, {absurd})"),
    "ChatMessage": ("message = ChatMessage('user', {text})", "message = ChatMessage({absurd}, {absurd})"),
    "Vocab.nTokens": ("{vocab!}.nTokens",),
    "Vocab.type": ("{vocab!}.type",),
    "Vocab.getText": ("{vocab!}.getText({token})",),
    "Vocab.getScore": ("{vocab!}.getScore({token})",),
    "Vocab.getAttr": ("{vocab!}.getAttr({token})",),
    "Vocab.isControl": ("{vocab!}.isControl({token})",),
    "Vocab.isEog": ("{vocab!}.isEog({token})",),
    "Vocab.tokenToPiece": ("{vocab!}.tokenToPiece({token})", "{vocab!}.tokenToPiece({token}, {buffer}, {small}, {flag})", "{vocab!}.tokenToPiece({token}, lstrip={small}, special={flag})"),
    "Vocab.getSuppressTokens": ("{vocab!}.getSuppressTokens()",),
} | {
    f"Vocab.{name}": (f"{{vocab!}}.{name}{'()' * name.startswith('get')}",)
    for name in "bos eos eot sep nl pad mask fimPre fimSuf fimMid fimPad fimRep fimSep getAddBos getAddEos getAddSep".split()
}

SYSTEM: Group = {
    f"{name}": (f"{name}()",)
    for name in """
        backendInit backendFree maxDevices maxParallelSequences maxTensorBuftOverrides printSystemInfo supportsGpuOffload
        supportsMlock supportsMmap supportsRpc timeUs version
    """.split()
} | {
    "numaInit": ("numaInit({enum})",),
    "ftypeName": ("ftypeName({ftype})",),
    "flashAttnTypeName": ("flashAttnTypeName({enum})",),
    "loadModeName": ("loadModeName({enum})",),
    "loadModeFromStr": ("loadModeFromStr({str})", "loadModeFromStr('mmap')"),
    "splitPath": ("splitPath({str}, {count}, {count})",),
    "splitPrefix": ("splitPrefix({str}, {count}, {count})", "splitPrefix('m-00001-of-00002.gguf', 0, 2)"),
    "logSet": ("logSet({fn})", "logSet(None)", "logSet(lambda level, text, data: ({call!}))", "logSet(logging.getLogger('fuzz'))", "logSet({absurd}, {absurd})", "logSet(0)"),
    "logGet": ("logGet()",),
    "Ggml.Backend.cpuLoad": ("Ggml.Backend.cpuLoad()",),
    "Ggml.Backend.ensureCpu": ("Ggml.Backend.ensureCpu()",),
    "Ggml.Backend.cpuVariant": ("Ggml.Backend.cpuVariant()",),
    "Ggml.Backend.cpuVariants": ("Ggml.Backend.cpuVariants()",),
    "Ggml.Backend.vkLoad": ("Ggml.Backend.vkLoad()",),
    "Ggml.Backend.devices": ("Ggml.Backend.devices()",),
    "Ggml.CpuVariant": ("use(Ggml.Backend.cpuVariant().runs)",),
    "Ggml.BackendDevice.count": ("Ggml.BackendDevice.count()",),
    "Ggml.BackendDevice.get": ("device = Ggml.BackendDevice.get({idx})", "device = Ggml.BackendDevice.get(0)"),
    "Ggml.BackendDevice.byName": ("Ggml.BackendDevice.byName({str})",),
    "Ggml.BackendDevice.byType": ("Ggml.BackendDevice.byType({enum})",),
    "Ggml.BackendDevice.name": ("{device!}.name",),
    "Ggml.BackendDevice.description": ("{device!}.description",),
    "Ggml.BackendDevice.type": ("{device!}.type",),
    "Ggml.BackendDevice.memory": ("{device!}.memory",),
    "Ggml.BackendDevice.bufferType": ("buft = {device!}.bufferType()",),
    "Ggml.BackendDevice.hostBufferType": ("{device!}.hostBufferType()",),
    "Ggml.BackendDevice.supportsBuft": ("{device!}.supportsBuft({buft})",),
    "Ggml.BackendBufferType.name": ("{buft!}.name",),
    "Ggml.BackendBufferType.isHost": ("{buft!}.isHost",),
    "Ggml.BackendBufferType.getAlignment": ("{buft!}.getAlignment()",),
    "Ggml.BackendBufferType.getMaxSize": ("{buft!}.getMaxSize()",),
    "Ggml.BackendBufferType.getDevice": ("{buft!}.getDevice()",),
    "Ggml.DeviceMemory": ("use({device!}.memory.free, {device!}.memory.total)",),
    "Ggml.Threadpool": ("pool = Ggml.Threadpool({threads})", "pool = Ggml.Threadpool({threads}, {enum}, {count}, {tokens}, strictCpu={flag}, paused={flag})"),
    "Ggml.Threadpool.nThreads": ("{pool!}.nThreads",),
    "Ggml.Threadpool.pause": ("{pool!}.pause()",),
    "Ggml.Threadpool.resume": ("{pool!}.resume()",),
    "Ggml.Threadpool.closed": ("{pool!}.closed",),
}  # fmt: skip

FREES: Group = {
    "Model.free": ("{model!}.free()", "Model.free({model!})"),
    "Model.close": ("{model!}.close()",),
    "Context.free": ("{ctx!}.free()", "Context.free({ctx!})"),
    "Context.close": ("{ctx!}.close()",),
    "Batch.free": ("{batch!}.free()",),
    "BatchExt.free": ("{ext!}.free()",),
    "BatchExt.close": ("{ext!}.close()",),
    "Sampler.free": ("{sampler!}.free()", "{chain!}.free()"),
    "Sampler.close": ("{sampler!}.close()", "{chain!}.close()"),
    "Adapter.loraFree": ("{adapter!}.loraFree()",),
    "Adapter.close": ("{adapter!}.close()",),
    "Ggml.Threadpool.free": ("{pool!}.free()",),
    "Ggml.Threadpool.close": ("{pool!}.close()",),
}

COPIES: Group = {
    "copy": ("copy.copy({any!})", "copy.deepcopy({any!})", "pickle.dumps({any!})", "use({any!})", "hash({any!}), {any!} == {any!}"),
    "gc": ("gc.collect()", "cycle({any!}, {any!})"),
    "__enter__": tuple(f"{{{kind}!}}.__enter__().__exit__(None, None, None)" for kind in ("model", "ctx", "batch", "chain")),
}

GROUPS: dict[str, Group] = {
    name.lower(): value for name, value in list(globals().items()) if name.isupper() and isinstance(value, dict)
}

_DECODE = ("Context.decode", "{ctx@}.decode(Batch.getOne({tokens!}))")
_ADD = ("Batch.add", "{batch@}.add({token}, {pos}, ({seq},), {flag})")
_EXT = ("BatchExt.setPos", "{ext@}.setPos({ext@}.addToken({seq}, {token}), {pos})")
_TWO = ("Context.initFromModel", "ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, nSeqMax=2, nThreads=1))")
_EMBEDS = (
    "Context.initFromModel",
    "ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, nSeqMax=2, nThreads=1, embeddings=True, poolingType={enum}))",
)

SCENARIOS: dict[str, tuple[tuple[str, str], ...]] = {
    "batch": (_TWO, ("Batch.init", "batch = Batch.init(8, 0, 2)"), _ADD, _ADD, _ADD, ("Context.decode", "{ctx@}.decode({batch@})")),
    "embeddings": (
        _TWO,
        ("Batch.init", "batch = Batch.init(4, 32, 1)"),
        ("Batch.nTokens", "{batch@}.nTokens = {threads!}"),
        ("Batch.embd", "put({batch@}.embd, slice(None), array('f', [{float}] * 128))"),
        ("Batch.output", "put({batch@}.output, 0, 1)"),
        ("Context.decode", "{ctx@}.decode({batch@})"),
    ),
    "ext": (
        _TWO,
        ("BatchExt.init", "ext = BatchExt.init({ctx@})"),
        _EXT,
        ("BatchExt.addSeq", "{ext@}.addSeq(0, {seq})"),
        ("BatchExt.setPos", "{ext@}.setPos({ext@}.addEmbd(0, np.zeros(32, np.float32)), {pos})"),
        ("BatchExt.setEmbdToken", "{ext@}.setEmbdToken(0, np.zeros(32, np.float32))"),
        ("BatchExt.setOutputLogits", "{ext@}.setOutputLogits({idx}, {flag})"),
        ("Context.process", "{ctx@}.process({process}, {ext@})"),
    ),
    "process": (_TWO, ("BatchExt.init", "ext = BatchExt.init({ctx@})"), ("BatchExt.setPos", "{ext@}.setPos({ext@}.addToken(0, {token}), 0)"),
                ("BatchExt.setOutputEmbd", "{ext@}.setOutputEmbd(0, {flag!})"), ("Context.process", "{ctx@}.process({process!}, {ext@})")),
    "pooled": (_EMBEDS, _DECODE, ("Context.getEmbeddingsSeq", "view = {ctx@}.getEmbeddingsSeq({seq})"),
               ("Context.getEmbeddingsIth", "view = {ctx@}.getEmbeddingsIth({idx})"), ("Context.getEmbeddings", "view = {ctx@}.getEmbeddings()")),
    "state": (_TWO, _DECODE, ("Context.stateGetData", "state = {ctx@}.stateGetData()"), _DECODE,
              ("Context.stateSetData", "{ctx@}.stateSetData({state@})"), _DECODE),
    "sequence": (_TWO, _DECODE, ("Context.stateSeqGetData", "state = {ctx@}.stateSeqGetData(None, None, 0)"),
                 ("Context.stateSeqSetData", "{ctx@}.stateSeqSetData({state@}, None, {seq})"), _DECODE),
    "files": (_TWO, _DECODE, ("Context.stateSaveFile", "{ctx@}.stateSaveFile(file('state'), {tokens!})"), ("Context.stateLoadFile", "{ctx@}.stateLoadFile(file('state'))"),
              ("Context.stateSeqSaveFile", "{ctx@}.stateSeqSaveFile(file('seqstate'), 0, {tokens!})"), ("Context.stateSeqLoadFile", "{ctx@}.stateSeqLoadFile(file('seqstate'), {seq})"), _DECODE),
    "encode": (("Model.load", "model = load('t5')"), ("Context.initFromModel", "ctx = Context.initFromModel({model@}, Context.Params(nCtx=64, nThreads=1))"),
               ("Context.encode", "{ctx@}.encode(Batch.getOne({tokens!}))"), _DECODE, _DECODE, ("Sampler.sample", "{sampler!}.sample({ctx@})")),
    "adapters": (("Model.load", "model = load('llama')"), ("Adapter.loraInit", "adapter = Adapter.loraInit({model@}, file('lora.gguf'))"),
                 ("Context.initFromModel", "ctx = Context.initFromModel({model@}, Context.Params(nCtx=64, nThreads=1))"),
                 ("Context.setAdapterLora", "{ctx@}.setAdapterLora({adapter@}, {float})"), _DECODE, ("Context.setAdapterCvec", "{ctx@}.setAdapterCvec(np.zeros(32, np.float32))"), _DECODE),
    "pools": (_TWO, ("Ggml.Threadpool", "pool = Ggml.Threadpool(2)"), ("Context.attachThreadpool", "{ctx@}.attachThreadpool({pool@})"), _DECODE,
              ("Context.setNThreads", "{ctx@}.setNThreads({threads})"), _DECODE, ("Context.detachThreadpool", "{ctx@}.detachThreadpool()"), _DECODE),
    "device": (
        ("Model.load", "model = load('llama')"),
        ("Sampler.chainInit", "chain = Sampler.chainInit()"),
        ("Sampler.chainAdd", "{chain@}.chainAdd(Sampler.initTopK({threads!}))"),
        ("Sampler.chainAdd", "{chain@}.chainAdd({sampler!})"),
        ("Context.initFromModel", "ctx = Context.initFromModel({model@}, Context.Params(nCtx=64, nThreads=1, samplers=[(0, {chain@})], nOutputsMaxPerSeq=1))"),
        _DECODE,
        ("Sampler.sample", "{chain@}.sample({ctx@})"),
        ("Context.getSampledProbsIth", "view = {ctx@}.getSampledProbsIth({idx})"),
        ("Context.getSampledCandidatesIth", "{ctx@}.getSampledCandidatesIth({idx})"),
    ),
    "chain": (("Sampler.chainInit", "chain = Sampler.chainInit()"), ("Sampler.chainAdd", "{chain@}.chainAdd({sampler!})"), ("Sampler.chainAdd", "{chain@}.chainAdd({sampler!})"),
              ("TokenDataArray", "cands = TokenDataArray({rows!})"), ("Sampler.apply", "{chain@}.apply({cands@})"), ("Sampler.accept", "{chain@}.accept({token})")),
    "rivals": (_TWO, _DECODE, ("together", "together(lambda: {ctx@}.decode(Batch.getOne([5] * 6)), lambda: ({rival}))"), _DECODE),
    "rival samplers": (_TWO, _DECODE, ("together", "together(lambda: {sampler!}.sample({ctx@}), lambda: ({rival}), lambda: ({rival}))"), _DECODE),
    "long": (_TWO, *((_DECODE, ("Sampler.sample", "{sampler!}.sample({ctx@})")) * 4)),
}
"""Orders of calls that lead somewhere; other steps come between them. `{kind@}` is the object of that kind made last."""

MAKERS = {
    "model": "model = load({modelname!})",
    "ctx": "ctx = Context.initFromModel({model!}, Context.Params(nCtx=64, nThreads=1, nThreadsBatch=1))",
    "batch": "batch = Batch.getOne({tokens!})",
    "ext": "ext = BatchExt.init({ctx!})",
    "sampler": "sampler = Sampler.initDist(1)",
    "chain": "chain = Sampler.chainInit()",
    "adapter": "adapter = Adapter.loraInit({model!}, file('lora.gguf'))",
    "pool": "pool = Ggml.Threadpool(2)",
    "cands": "cands = TokenDataArray({rows!})",
    "memory": "memory = {ctx!}.getMemory()",
    "vocab": "vocab = {model!}.vocab",
    "view": "view = {ctx!}.getLogits()",
    "state": "state = {ctx!}.stateGetData()",
    "cparams": "cparams = Context.Params()",
    "mparams": "mparams = Model.Params()",
    "qparams": "qparams = Model.QuantizeParams()",
    "sparams": "sparams = Sampler.ChainParams()",
    "row": "row = TokenData(id=1)",
    "device": "device = Ggml.BackendDevice.get(0)",
    "buft": "buft = Ggml.BackendDevice.get(0).bufferType()",
    "perf": "perf = PerfContextData()",
    "config": "config = SamplerSeqConfig(0, {chain!})",
    "message": "message = ChatMessage('user', 'hello')",
}
"""How an object of each kind is made when a step needs one and there is none."""
