//! Tests of `template`.

use proptest::prelude::*;

use super::*;
use crate::model::checkpoint::weights::testing::{fixtures, miniature_prompts, read_json, write};
use crate::model::checkpoint::weights::{Miniature, open_checkpoint};

/// A checkpoint folder with `config`, these files, and weights that are never read.
fn checkpoint(config: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), config);
    write(&folder.path().join("model.safetensors"), "not read here");
    for (name, text) in files {
        write(&folder.path().join(name), text);
    }
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

#[test]
fn the_checkpoints_own_template_gives_the_prompt_of_transformers() {
    for dir in fixtures("llava") {
        let reference = read_json(&dir.join("reference.json"));
        let question = reference["question"].as_str().unwrap();
        let llava = Checkpoint::open(&dir).unwrap();
        let own = ChatTemplate::open(&llava, None).unwrap();
        assert_eq!(own.name(), "chat_template.jinja");
        assert_eq!(own.render(question).unwrap(), reference["prompts"]["hf_chat_template"]);
        let llava_v1 = ChatTemplate::open(&llava, Some("llava_v1")).unwrap();
        assert_eq!(llava_v1.render(question).unwrap(), reference["prompts"]["vicuna_v1_original"]);
    }
}

#[test]
fn the_small_pairs_prompts_are_those_of_its_answers() {
    let checkpoint = open_checkpoint(std::path::Path::new("embedded"), Miniature::Model).unwrap();
    let template = ChatTemplate::open(&checkpoint, None).unwrap();
    let prompts = miniature_prompts();
    assert_eq!(prompts.len(), 4);
    for (name, known) in prompts {
        let question = known["question"].as_str().unwrap();
        assert_eq!(template.render(question).unwrap(), known["prompt"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn an_original_llava_defaults_to_the_template_of_its_training() {
    let (_folder, original) = checkpoint(r#"{"mm_vision_tower": "openai/clip-vit-large-patch14-336"}"#, &[]);
    let template = ChatTemplate::open(&original, None).unwrap();
    assert_eq!(template.name(), "vicuna_v1");
    assert!(template.render("What?").unwrap().ends_with("user's questions. USER: <image>\nWhat? ASSISTANT:"));
    assert_eq!(ChatTemplate::open(&original, Some("llava_v0")).unwrap().stop_strings(), ["###"]);
}

#[test]
fn files_are_asked_in_the_order_of_transformers() {
    // `AutoProcessor` of transformers 5.24 chooses in this order.
    let processor = ("processor_config.json", r#"{"chat_template": "one <image>"}"#);
    let json = ("chat_template.json", r#"{"chat_template": "two <image>"}"#);
    let jinja = ("chat_template.jinja", "three <image>");
    let tokenizer = (
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "four <image>"}]}"#,
    );
    let all = [processor, json, jinja, tokenizer];
    for (index, expected) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let (_folder, checkpoint) = checkpoint("{}", &all[index..]);
        let rendered = ChatTemplate::open(&checkpoint, None).unwrap().render("q").unwrap();
        assert_eq!(rendered, format!("{expected} <image>"));
    }
    let (_folder, none) = checkpoint("{}", &[]);
    let error = ChatTemplate::open(&none, None).unwrap_err().to_string();
    assert!(error.contains("no chat template") && error.contains("--template"), "{error}");
}

#[test]
fn special_tokens_and_the_generation_tag_are_known_to_templates() {
    let text = "{{ bos_token }}{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}{%- generation -%} A: {% endgeneration %}\n";
    let (_folder, checkpoint) = checkpoint(
        "{}",
        &[("chat_template.jinja", text), ("tokenizer_config.json", r#"{"bos_token": {"content": "<s>"}}"#)],
    );
    assert_eq!(ChatTemplate::open(&checkpoint, None).unwrap().render("q").unwrap(), "<s>USER: <image>qA: ");
}

#[test]
fn of_special_tokens_the_file_of_transformers_order_counts() {
    let map = ("special_tokens_map.json", r#"{"bos_token": "<map>"}"#);
    let plain = ("tokenizer_config.json", r#"{"bos_token": "<config>"}"#);
    let whole = ("tokenizer_config.json", r#"{"bos_token": "<config>", "added_tokens_decoder": {}}"#);
    let template = ("chat_template.jinja", "{{ bos_token }}{{ tools }}{{ sep_token is defined }} <image>");
    for (config, expected) in [(plain, "<map>None"), (whole, "<config>None")] {
        let (_folder, checkpoint) = checkpoint("{}", &[template, map, config]);
        let rendered = ChatTemplate::open(&checkpoint, None).unwrap().render("q").unwrap();
        assert_eq!(rendered, format!("{expected}False <image>"));
    }
}

#[test]
fn a_template_that_asks_for_the_day_is_told_one_and_says_so() {
    let text = "{{ strftime_now('%d %b %Y') }} <image>{{ messages[0].content[1].text }}";
    let (_folder, checkpoint) = checkpoint("{}", &[("chat_template.jinja", text)]);
    let template = ChatTemplate::open(&checkpoint, None).unwrap();
    assert_eq!(template.render("q").unwrap(), "26 Jul 2024 <image>q");
    assert!(template.clock_warning().unwrap().contains("26 Jul 2024"));
    assert_eq!(ChatTemplate::built_in("vicuna_v1").unwrap().clock_warning(), None);
}

#[test]
fn what_stands_around_an_answer_is_the_templates_own() {
    let around = |template: &ChatTemplate| {
        let prompt = template.render("What?").unwrap();
        template.around_answer("What?", &prompt).map(|around| (around.before, around.after))
    };
    let pair = |before: &str, after: &str| Some((before.to_owned(), after.to_owned()));
    assert_eq!(around(&ChatTemplate::built_in("vicuna_v1").unwrap()), pair(" ", "</s>"));
    assert_eq!(around(&ChatTemplate::built_in("llava_v0").unwrap()), pair(" ", "###"));
    let list = "{% for m in messages %}<|{{ m.role }}|>\n{% for c in m.content %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
    let text = "{% for m in messages %}{% if m.role == 'user' %}Q: <image>{{ m.content[1].text }}{% else %} A: {{ m.content.strip() }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %} A:{% endif %}";
    let blind = "<image>{{ messages[0].content[1].text }}:";
    for (source, expected) in [(list, pair("", "<|end|>\n")), (text, pair(" ", "</s>")), (blind, None)] {
        let (_folder, checkpoint) = checkpoint("{}", &[("chat_template.jinja", source)]);
        assert_eq!(around(&ChatTemplate::open(&checkpoint, None).unwrap()), expected, "{source}");
    }
}

#[test]
fn a_template_that_fails_or_refuses_says_why() {
    let (_folder, refusing) = checkpoint("{}", &[("chat_template.jinja", "{{ raise_exception('only text turns') }}")]);
    let error = ChatTemplate::open(&refusing, None).unwrap().render("q").unwrap_err().to_string();
    assert!(error.contains("only text turns"), "{error}");
    let (_folder, blind) = checkpoint("{}", &[("chat_template.jinja", "{{ messages[0].content[1].text }}")]);
    let error = ChatTemplate::open(&blind, None).unwrap().render("q").unwrap_err().to_string();
    assert!(error.contains("shows 0 images"), "{error}");
    let error = ChatTemplate::built_in("llava_v1").unwrap().render("an <image>?").unwrap_err().to_string();
    assert!(error.contains("stands for the image"), "{error}");
    let (_folder, broken) = checkpoint("{}", &[("chat_template.jinja", "{% for %}")]);
    assert!(ChatTemplate::open(&broken, None).unwrap_err().to_string().contains("chat_template.jinja"));
    let error = format!("{:#}", ChatTemplate::open(&broken, Some("vicuna_v7")).unwrap_err());
    assert!(error.contains("vicuna_v1") && error.contains("vicuna_v7"), "{error}");
}
proptest! {
    #[test]
    fn any_text_is_a_template_or_an_error(
        noise in ".{0,60}",
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "{%", "%}", "{{", "}}", "{#", "#}", "-", " generation ", " endgeneration ", "if ", "endif", "for m in ",
                "endfor", "messages", "m['content']", "[0]", "|", "join", "'", "\n", "<image>", "raise_exception('é')", "é",
            ]),
            0..14,
        ),
        question in ".{0,20}",
    ) {
        let (_spoilt_folder, spoilt) = checkpoint("{}", &[("tokenizer_config.json", &noise)]);
        let _ = ChatTemplate::open(&spoilt, None);
        let (_folder, plain) = checkpoint("{}", &[]);
        for text in [noise, parts.concat()] {
            if let Ok(template) = ChatTemplate::jinja("mine", text, &plain)
                && let Ok(rendered) = template.render(&question)
            {
                prop_assert_eq!(rendered.matches(IMAGE_MARKER).count(), 1);
            }
        }
    }
}
