"""Parses preprocessed headers into the data classes of `codegen.api.model`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from codegen.api.model import (
    Api,
    CodegenError,
    Constant,
    Enum,
    Enumerator,
    Field,
    Function,
    Param,
    Record,
    Typedef,
)
from codegen.read.c_syntax import (
    around,
    bits,
    c_ast,
    c_generator,
    c_parser,
    has_body,
    innermost,
    keyword,
    nameless,
    number_words,
    references,
    unknown,
)
from codegen.read.comments import Comments
from codegen.read.headers import PUBLIC_HEADERS, Preprocessed

# The words of C's arithmetic types, without `_Complex` and compiler-specific types, which cffi or C++ lacks.
_INTEGER_WORDS = {"_Bool", "bool", "char", "short", "int", "long", "signed", "unsigned"}
_TYPE_WORDS = _INTEGER_WORDS | {"void", "float", "double"}

# Pragmas that do not change a layout.
_HARMLESS_PRAGMAS = ("GCC diagnostic", "GCC visibility", "clang diagnostic", "message", "once")


def parse(source: Preprocessed, pin: str, headers: Iterable[str] = PUBLIC_HEADERS) -> Api:
    """Build the API from preprocessed headers. `codegen.read.probe` adds values and layouts.

    Those of `headers` that the source lacks are left out.
    """
    try:
        unit = c_parser.CParser().parse(source.text, "unit.c")
    except c_parser.ParseError as error:
        hint = "Change codegen/read/headers.py to rewrite or remove the text that it cannot parse."
        raise CodegenError(f"pycparser cannot read the headers: {error}. {hint}") from None
    builder = _Builder(source)
    for node in unit.ext:
        builder.declaration(node)
    constants, left_out = _constants(source, builder)
    return Api(
        pin=pin,
        headers=tuple(name for name in headers if name in source.sources),
        functions=tuple(sorted(builder.functions.values(), key=lambda f: f.name)),
        records=tuple(builder.records.values()),
        enums=tuple(builder.enums.values()),
        typedefs=tuple(builder.typedefs.values()),
        constants=tuple(sorted([*constants, *builder.constants], key=lambda c: c.name)),
        macros_left_out=dict(sorted(left_out.items())),
    )


class _Builder:
    def __init__(self, source: Preprocessed) -> None:
        self.functions: dict[str, Function] = {}
        self.records: dict[str, Record] = {}
        self.enums: dict[str, Enum] = {}
        self.typedefs: dict[str, Typedef] = {}
        self.constants: list[Constant] = []
        self.aliased: dict[str, list[str]] = {}  # every typedef, also of system headers -> its `_number_words`
        self._source = source
        self._comments = {name: Comments(lines) for name, lines in source.sources.items()}
        self._c = c_generator.CGenerator()
        self._defined: dict[int, str] = {}  # id of the node of a type with a body -> the type's spelling

    def declaration(self, node: c_ast.Node) -> None:
        """Add a declaration at file level. Declarations of system headers are skipped."""
        if isinstance(node, c_ast.Typedef):
            self.aliased[node.name] = number_words(node.type)
        header = self._header(node)
        if header is None:
            return
        match node:
            case c_ast.Typedef():
                self._typedef(node, header)
            case c_ast.Decl(type=c_ast.FuncDecl()):
                self._function(node, header)
            case c_ast.Decl(name=None, type=c_ast.Struct() | c_ast.Union() | c_ast.Enum()):
                self._define(node.type, header)
            case c_ast.Decl(type=c_ast.TypeDecl(), storage=storage) if "static" in storage and "const" in node.quals:
                self._constant(node, header)
            case c_ast.FuncDef():
                self._function(node.decl, header)
            case c_ast.StaticAssert():
                pass
            case c_ast.Pragma(string=text) if text.startswith(_HARMLESS_PRAGMAS):
                pass
            case _:
                raise unknown(node, "an unknown kind of declaration")

    # Places

    def _header(self, node: c_ast.Node) -> str | None:
        name = str(node.coord.file).rpartition("/")[2] if node.coord else ""
        return name if name in self._source.sources else None

    def _doc(self, node: c_ast.Node, header: str) -> str:
        return self._comments[header].of(node.coord.line)

    # Named types

    def _typedef(self, node: c_ast.Typedef, header: str) -> None:
        declarator, base = node.type, innermost(node.type)
        doc = self._doc(node, header)
        if has_body(base):
            if not base.name and id(base) not in self._defined:
                self._untagged(node, base, header)
                return
            doc = ""  # the comment belongs to the record or the enum
            self._define(base, header)
            declarator = around(node.type, self._defined[id(base)])
        elif isinstance(node.type, c_ast.TypeDecl) and isinstance(base, (c_ast.Struct, c_ast.Union)):
            self._define(base, header)
        typedef = Typedef(node.name, self._type(declarator, header), header, doc)
        known = self.typedefs.setdefault(node.name, typedef)
        if known.type != typedef.type:
            raise CodegenError(f"{node.coord}: typedef {node.name} is {typedef.type!r} here, but {known.type!r} before")

    def _untagged(self, typedef: c_ast.Typedef, node: c_ast.Node, header: str) -> None:
        alias, doc = typedef.name, self._doc(node, header)
        if not isinstance(typedef.type, c_ast.TypeDecl):
            raise unknown(node, f"the typedef {alias} of an unnamed type")
        self._defined[id(node)] = alias
        if isinstance(node, c_ast.Enum):
            self.enums[alias] = replace(self._read_enum(node, header), alias=alias, doc=doc)
        else:
            self.records[alias] = replace(self._read_record(node, header), alias=alias, doc=doc)

    def _define(self, node: c_ast.Node, header: str) -> None:
        """Add a struct, union or enum. Several declarators after one body share its node: only the first adds it."""
        if id(node) in self._defined:
            return
        if has_body(node):
            self._defined[id(node)] = f"{keyword(node)} {node.name}"
        if isinstance(node, c_ast.Enum):
            self._enum(node, header)
        else:
            self._record(node, header)

    def _record(self, node: c_ast.Struct | c_ast.Union, header: str) -> None:
        record = self._read_record(node, header)
        known = self.records.get(record.spelling)
        if known is None:
            self.records[record.spelling] = record
        elif record.fields is not None:
            if known.fields is not None:
                raise CodegenError(f"{node.coord}: {record.spelling} is defined twice")
            del self.records[record.spelling]  # the record's place in the order is that of its definition
            self.records[record.spelling] = record

    def _read_record(self, node: c_ast.Struct | c_ast.Union, header: str) -> Record:
        fields = None
        if node.decls is not None:
            members = [x for x in node.decls if not isinstance(x, c_ast.StaticAssert)]
            fields = tuple(field for x in members for field in self._fields(x, header))
        doc = self._doc(node, header) if node.name and fields is not None else ""
        return Record(keyword(node), node.name or "", header, fields, doc)

    def _fields(self, node: c_ast.Node, header: str) -> list[Field]:
        """Return the member of a declaration; none if it declares only a type."""
        if not isinstance(node, c_ast.Decl) or node.align:
            raise unknown(node, "an unknown kind of member")
        name = node.name or ""
        doc = self._doc(node, header) if node.coord else ""  # pycparser loses the line of an unnamed bit field
        base = innermost(node.type)
        if has_body(base) and not base.name:
            return [self._member_in_place(node, base, header, doc)]
        if has_body(base):
            self._define(base, header)
        if base is node.type:
            return []
        return [Field(self._type(node.type, header), name, doc, bits(node))]

    def _member_in_place(self, node: c_ast.Decl, base: c_ast.Node, header: str, doc: str) -> Field:
        """Return a member of an unnamed type defined in place. Its type text is the keyword and the declarator."""
        if isinstance(base, c_ast.Enum):
            raise unknown(base, "a member of an unnamed enum")
        inner = self._read_record(base, header)
        ctype = self._type(around(node.type, inner.kind), header, words={inner.kind}) if node.name else inner.kind
        return Field(ctype, node.name or "", doc, inner=inner)

    def _enum(self, node: c_ast.Enum, header: str) -> None:
        if node.values is None:
            return
        enum = self._read_enum(node, header)
        key = enum.spelling if node.name else f"enum@{header}:{enum.members[0].name}"
        self.enums[key] = replace(enum, doc=self._doc(node, header) if node.name else "")

    def _read_enum(self, node: c_ast.Enum, header: str) -> Enum:
        members = tuple(Enumerator(x.name, self._doc(x, header)) for x in node.values.enumerators)
        return Enum(node.name or "", header, members)

    # Functions and constants

    def _function(self, node: c_ast.Decl, header: str) -> None:
        parameters = node.type.args.params if node.type.args else []
        variadic = any(isinstance(x, c_ast.EllipsisParam) for x in parameters)
        params = tuple(self._param(x, header) for x in parameters if not isinstance(x, c_ast.EllipsisParam))
        if len(params) == 1 and params[0].type == "void":
            params = ()
        function = Function(
            name=node.name,
            header=header,
            returns=self._type(node.type.type, header),
            params=params,
            variadic=variadic,
            deprecated=self._source.deprecated.get(node.name),
            doc=self._doc(node, header),
        )
        known = self.functions.setdefault(node.name, function)
        if _signature(known) != _signature(function):
            raise CodegenError(f"{node.coord}: {node.name} is declared twice, with different types")

    def _param(self, node: c_ast.Node, header: str) -> Param:
        match node:
            case c_ast.Decl() | c_ast.Typename():
                return Param(self._type(node.type, header), node.name or "")
            case _:
                raise unknown(node, "an unknown kind of parameter")

    def _constant(self, node: c_ast.Decl, header: str) -> None:
        kind = self.number_kind(self._type(node.type, header))
        if kind is None:
            raise unknown(node, f"the constant {node.name}, which is not a number")
        self.constants.append(Constant(node.name, header, kind, doc=self._doc(node, header)))

    def number_kind(self, ctype: str) -> str | None:
        """Return `int` or `float`, the kind of a number type; None for any other type."""
        words = ctype.split()
        while True:
            words = [word for word in words if word not in ("const", "volatile")]
            if len(words) != 1 or words[0] not in self.aliased:
                break
            words = self.aliased[words[0]]
        if words in (["float"], ["double"], ["long", "double"]):
            return "float"
        return "int" if words[:1] == ["enum"] or (words and _INTEGER_WORDS.issuperset(words)) else None

    def _type(self, node: c_ast.Node, header: str, words: Iterable[str] = ()) -> str:
        """Return the type as C text without a name. A definition in place becomes a reference to the type."""
        plain = nameless(node, {*_TYPE_WORDS, *self.aliased, *words})
        for reference in references(plain):  # in C, the first mention of a struct declares it
            kind = keyword(reference)
            self.records.setdefault(f"{kind} {reference.name}", Record(kind, reference.name, header))
        return self._text(plain)

    def _text(self, node: c_ast.Node) -> str:
        return " ".join(self._c.visit(c_ast.Typename(None, [], None, node, node.coord)).split())


# Helpers over pycparser's nodes


def _signature(function: Function) -> tuple[str, list[str], bool]:
    return function.returns, [param.type for param in function.params], function.variadic


# Constants

_NO_VALUE = "expands to attributes, keywords or statements, not to a value"
_NO_CONSTANT = "expands to an expression that is neither a constant number nor a string"


def _constants(source: Preprocessed, builder: _Builder) -> tuple[list[Constant], dict[str, str]]:
    enumerators = {member.name for enum in builder.enums.values() for member in enum.members}
    kinds = dict.fromkeys(enumerators, "int") | {constant.name: constant.kind for constant in builder.constants}
    reader = _Expressions(builder, kinds)
    constants: list[Constant] = []
    left_out = {name: "takes arguments" for name in source.function_like_macros}
    for macro in source.macros:
        kind = reader.kind(macro.expansion)
        if macro.name in kinds:
            left_out[macro.name] = "has the name of an enumerator or a constant, which is bound instead"
        elif kind in ("int", "float", "str"):
            doc = Comments(source.sources[macro.header]).of(macro.line)
            constants.append(Constant(macro.name, macro.header, kind, doc=doc))
        else:
            left_out[macro.name] = kind
    return constants, left_out


class _Expressions:
    """Finds the kind of constant that a macro is, by the C grammar. The compiler provides the value later."""

    def __init__(self, builder: _Builder, kinds: dict[str, str]) -> None:
        self._builder = builder
        self._kinds = kinds
        self._typedefs = f"typedef int {', '.join(builder.aliased)};" if builder.aliased else ""

    def kind(self, expansion: str) -> str:
        """Return `int`, `float` or `str`, or the reason why the macro is not a constant."""
        try:
            unit = c_parser.CParser().parse(f"{self._typedefs} int x = ({expansion});")
        except c_parser.ParseError:
            return _NO_VALUE
        return self._of(unit.ext[-1].init) or _NO_CONSTANT

    def _of(self, node: c_ast.Node) -> str | None:
        match node:
            case c_ast.Constant(type="string"):
                return "str" if node.value.startswith('"') else None  # not L"wide"
            case c_ast.Constant():
                return "float" if node.type in ("float", "double", "long double") else "int"
            case c_ast.ID():
                return self._kinds.get(node.name)
            case c_ast.UnaryOp(op="sizeof"):
                return "int"
            case c_ast.UnaryOp(op="!"):
                return self._number("int", node.expr)
            case c_ast.UnaryOp(op="+" | "-" | "~"):
                return self._number("", node.expr)
            case c_ast.BinaryOp(op="<" | "<=" | ">" | ">=" | "==" | "!=" | "&&" | "||"):
                return self._number("int", node.left, node.right)
            case c_ast.BinaryOp():
                return self._number("", node.left, node.right)
            case c_ast.TernaryOp():
                return self._number("int", node.cond) and self._number("", node.iftrue, node.iffalse)
            case c_ast.Cast() if isinstance(node.to_type.type, c_ast.TypeDecl):
                to = " ".join(c_generator.CGenerator().visit(node.to_type).split())
                return self._number(self._builder.number_kind(to) or "none", node.expr)
            case _:
                return None

    def _number(self, kind: str, *operands: c_ast.Node) -> str | None:
        """Return `kind`, or if that is empty the operands' common kind; None unless every operand is a number."""
        kinds = {self._of(operand) for operand in operands}
        if not kinds <= {"int", "float"} or kind == "none":
            return None
        return kind or ("float" if "float" in kinds else "int")
