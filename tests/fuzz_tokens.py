"""Pieces that parsers trip over, put into good files: tags of YAML, types of JSON, Arrow and safetensors, …"""

TOKENS = (
    b"\x00", b"\xff\xfe", b"<!ENTITY a 'b'>", b"&a;", b"{", b"[", b'"', b"\t", b"\n",
    b"999999999999999999999999999999", b"null", b"true", b"-1", b"1e999", b"NaN", b"\xe2\x80\xae", b"\xed\xa0\x80",
    b"- &x [*x]", b"!!python/object", b"../", b"/etc/passwd", b"\\ud800", b"<![CDATA[", b"<seg", b"&#x0;", b"*x",
    b"V;PST", b"in_graph",
    # tags and shapes of YAML
    b"!!bool x", b'!!int ""', b'!!float "_"', b"!!timestamp x", b"!!binary ==", b"!!null x", b"!!set {a}",
    b"!!omap [a]", b"!!pairs [a: 1]", b"!!merge <<", b"<<: *x", b"&x ", b"? [a]\n: b", b"%YAML 1.1\n", b"--- ",
    b"... ", b"|+9\n", b">-\n", b"2024-99-99", b"1:99:99.", b"0o99", b"0x", b".inf", b".nan", b"~", b"yes", b"=",
    # types of JSON where another one belongs
    b"{}", b"[]", b'""', b"1.5", b"false", b"[[]]", b'{"":{}}', b"-0", b"1E400", b"Infinity", b'"false"', b'"NaN"',
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b'{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":',
    b'"\\u0000"', b"1e6", b"0.9", b"-1", b"9007199254740993",
    # names of types of Arrow, safetensors and Zarr
    b"large_string", b"dictionary", b"timestamp[ns]", b"decimal128", b"list<item", b"struct", b"map", b"null",
    b"fixed_size_binary", b"duration", b"extension", b"ARROW:extension:name", b"pandas", b"F64", b"BF16", b"F8_E4M3",
    b"I64", b"BOOL", b"U8", b'"data_offsets":[0,9]', b'"shape":[-1]', b"__metadata__", b"<M8[ns]", b"|O", b">U9",
    b"r9",
    # what spreadsheets, languages and file names are tripped by
    b"=1+1", b"@x", b"zho_Hans", b"qaa", b"e\xcc\x81", b"\xc3\xa9", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b"\r",
    b"\x1b]0;x\x07", b"?normalise=nfc", b"&lone=drop", b"?limit=0", b"%00", b"%2e%2e%2f", b"~nobody9/", b"*", b"**",
    b"[a", b".gz", b".zst",
)  # fmt: skip
