"""Chat templates and what transformers (5.24) renders of them for one turn about an image, for `src/model/template_environment.rs`.
The clock is the one that `emt` gives: midnight of 26 July 2024. `null` where transformers refuses.

    python tests/golden/make_templates.py > tests/golden/templates.json
"""
import datetime, json
import transformers.utils.chat_template_utils as utils


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return cls(2024, 7, 26)


utils.datetime = Clock
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
LOOP = "{% for message in messages %}{% for part in message.content %}"
END = "{% endfor %}{% endfor %}"
FORMATS = "%Y %y %m %B %b %h %d %e %A %a %w %u %j %H %I %p %M %S %f %z %Z %U %W %V %G %c %x %X %D %F %T %R %% %-d %-m %-H"
TEMPLATES = [
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ sep_token }}",
    "{{ bos_token is defined }} {{ sep_token is defined }} {{ tools is defined }} {{ documents is defined }}",
    "{% if tools is not none %}tools{% endif %}{% if not tools %}no tools{% endif %}{{ tools }}{{ documents is none }}",
    "{{ add_generation_prompt }} {{ not add_generation_prompt }} {{ none }} {{ true }} {{ 1.0 }} {{ 3 }} {{ 1e20 }} {{ 0.1 + 0.2 }}",
    "{{ messages }}", "{{ messages | tojson }}", "{{ messages | tojson(indent=2) }}", "{{ messages | tojson(sort_keys=true) }}",
    "{{ messages | tojson(separators=(',', ':')) }}", "{{ messages[0] | tojson(indent=4, sort_keys=true) }}",
    "{{ 'größe <b> & \"x\" \\n' | tojson }} {{ 'größe 😀' | tojson(ensure_ascii=true) }} {{ [] | tojson(indent=2) }} {{ {} | tojson }}",
    "{{ {'b': 1, 'a': [true, none, 1.5, 'x\\'y']} }} {{ {'b': 1, 'a': 2} | tojson }} {{ ['it\\'s', \"q\\\"\"] }}",
    "{{ 'x' | string }} {{ true | string }} {{ none | string }} {{ 5 | string }} {{ [1] | string }}",
    "{{ 'ab' is string }} {{ 'ab' is sequence }} {{ 'ab' is iterable }} {{ [1] is sequence }} {{ {} is mapping }} {{ {} is sequence }} {{ 5 is iterable }} {{ 5 is number }} {{ 5 is integer }} {{ 5.0 is float }} {{ true is boolean }} {{ none is none }} {{ 5 is even }} {{ 5 is odd }} {{ 5 is divisibleby 5 }} {{ 'A' is upper }} {{ 'a' is lower }} {{ 2 is eq 2 }} {{ 1 is in [1] }} {{ true is true }} {{ false is false }}",
    LOOP + "{% if part.type == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}" + END,
    LOOP + "{{ part.get('text', 'none') }} {% for key, value in part.items() %}{{ key }}={{ value }} {% endfor %}" + END,
    LOOP + "{% if part.type == 'image' %}{% continue %}{% endif %}{{ part.text }}{% break %}" + END,
    LOOP + "{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }} " + END,
    "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{%- generation -%} {{ m.role }} {%- endgeneration -%}{% endfor %}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.found = true %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "{{ dict(a=1, b='x') }} {{ dict(a=1) | tojson }}",
    "{{ strftime_now('%d %b %Y') }} {{ strftime_now is defined }}", "{{ strftime_now('" + FORMATS + "') }}",
    "{% if strftime_now is defined %}{% set date_string = strftime_now('%Y-%m-%d') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}Today: {{ date_string }}",
    "{{ raise_exception('no system role') }}", "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}fine",
    "{% macro say(text, n=2) %}[{{ text * n }}]{% endmacro %}{{ say('a') }}{{ say('b', n=3) }}",
    "{% set content %}body {{ messages[0].role }}{% endset %}{{ content | trim }}|{{ content | length }}",
    "a\n  {% if true %}\n    b\n  {% endif %}\nc\n", "  {%- if true -%}  x  {%- endif %}  \n y", "{# note #}\nx {#- note -#} y\n",
    "{{ 'Hello' ~ ' ' ~ 5 }} {{ 'a' + 'b' }} {{ 'ab' * 2 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 3 }} {{ 7 / 2 }} {{ -7 // 2 }}",
    "{{ 'a,b'.split(',') }} {{ ' x '.strip() }} {{ 'x\\n'.rstrip('\\n') }} {{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('x') }} {{ 'abc'.upper() }} {{ 'ab'.replace('a', 'c') }} {{ 'abc'.find('c') }} {{ 'a b'.title() }} {{ '-'.join(['a', 'b']) }} {{ 'Abc'.lower() }} {{ 'aXbXc'.split('X', 1) }} {{ 'aXbXc'.rsplit('X', 1)[0] }} {{ 'x'.isdigit() }} {{ 'abc'.count('a') }} {{ 'a\\nb'.splitlines() }} {{ 'abc'.capitalize() }} {{ '  a'.lstrip() }} {{ 'abcabc'.removeprefix('abc') if false else 'skip' }}",
    "{{ 'abcdef'[1:] }} {{ 'abcdef'[:-1] }} {{ 'abcdef'[-2:] }} {{ [1, 2, 3][::-1] }} {{ [1, 2, 3][1:] }} {{ messages[-1].role }} {{ messages | length }}",
    "{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'eq', 'user') | list | length }} {{ messages | selectattr('tool') | list }}",
    "{{ [3, 1, 2] | sort }} {{ [1, 1, 2] | unique | list }} {{ 'abc' | first }} {{ [1, 2] | last }} {{ [1, 2] | sum }} {{ 'x' | default('y') }} {{ nothing | default('y') }} {{ '' | default('z', true) }} {{ 'ab' | capitalize }} {{ 'ab' | upper }} {% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %} {% for k, v in {'b': 1} | items %}{{ k }}{{ v }}{% endfor %} {{ 'a b' | replace(' ', '_') }} {{ '5' | int }} {{ 3.7 | round }} {{ [1, 2, 3] | reverse | list }} {{ 'a<b' | escape }} {{ [1, 2, 3, 4] | batch(2) | list }} {{ 'abc' | list }} {{ 'a' | indent }} {{ [1, 2] | max }} {{ 2.5 | abs }}",
    "{{ 'line\nnext' | indent(4) }}|{{ 'line\nnext' | indent(2, true) }}", "{{ '%s has %d' | format('it', 5) }}",
    "{{ 'yes' if messages else 'no' }} {{ 'x' if false }} {{ nothing }} {{ nothing is undefined }} {{ messages[5] is defined }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(1, 10, 4) %}{{ i }}{% endfor %}",
    "{% filter upper %}abc{% endfilter %}{% with a = 5 %}{{ a }}{% endwith %}{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{{ messages[0]['content'][1]['text'] }} {{ messages[0].content[1].text.split(' ')[0] }}", "{{ nothing.attribute }}",
    "{% set x = [1, 2] %}{% set y = x + [3] %}{{ y }} {{ 1 in x }} {{ 5 not in x }} {{ not x }} {{ x and y }} {{ none or 'z' }}",
    "{{ '\\u003cimage\\u003e' }} {{ \"tab\\there\" }} {{ 'a' 'b' }}", "{{ 5 == 5.0 }} {{ 'a' < 'b' }} {{ 1 < 2 }} {{ [1] == [1] }} {{ none == false }}",
    "{%- for message in messages %}\n    {%- if loop.first and message.role != 'system' %}\n        {{- 'SYSTEM\n' }}\n    {%- endif %}\n    {{- '<|' + message.role + '|>\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|assistant|>\n' }}\n{%- endif %}\n",
    "{{ messages | tojson | safe }}", "{{ messages[0].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | list | first }}",
    "{{ continue_final_message is defined }} {{ enable_thinking is defined and enable_thinking is false }}",
]
rows = []
for template in TEMPLATES:
    try: rendered = utils.render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **TOKENS)[0][0]
    except Exception as error: rendered = None
    rows.append({"template": template, "rendered": rendered})
print(json.dumps({"made_by": "tests/golden/make_templates.py, transformers 5.24", "cases": rows}, indent=0, ensure_ascii=False))
