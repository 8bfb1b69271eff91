//! What a request asks a model to read, piece by piece: for counting it where the upstream does not say how much it
//! was. One reader for all APIs: they differ in which of these members they have, not in what one means.

use serde_json::Value;

/// A piece of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Piece<'a> {
    /// A chat message begins.
    Message,
    /// Its sender has a name; the name follows as text.
    Sender,
    /// Text.
    Text(&'a str),
    /// So many token ids, given in place of text.
    Ids(u64),
    /// A tool that the model may call.
    Tool(Tool<'a>),
    /// A picture; `low` where it was asked to be looked at in low detail.
    Picture {
        /// In low detail.
        low: bool,
    },
    /// Something that has tokens, and nobody can tell from here how many: sound, a file, a document.
    Other,
}

/// A tool's description.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tool<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it does.
    pub description: &'a str,
    /// Its parameters, a JSON Schema; null where it has none.
    pub parameters: &'a Value,
}

/// Members that are a prompt without messages, or a part of one.
const TEXTS: [&str; 10] = [
    "prompt",
    "input",
    "inputs",
    "text_input",
    "inputText",
    "query",
    "documents",
    "suffix",
    "input_prefix",
    "input_suffix",
];

/// Tells the pieces of a request's prompt, in the order of the body.
pub fn pieces<'a>(body: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    if let Some(system) = body.get("system").filter(|system| !system.is_null()) {
        tell(Piece::Message);
        tell(Piece::Text("system"));
        content(system, tell);
    }
    for member in ["instructions", "systemInstruction", "system_instruction"] {
        if let Some(told) = body.get(member).filter(|told| !told.is_null()) {
            tell(Piece::Message);
            content(told.get("parts").unwrap_or(told), tell);
        }
    }
    for message in elements(body, "messages").chain(elements(body, "contents")) {
        self::message(message, tell);
    }
    for member in TEXTS {
        if let Some(text) = body.get(member) {
            raw(text, tell);
        }
    }
    // SGLang's; an object is something else in other APIs.
    for text in
        [body.get("text"), body.get("input_ids")].into_iter().flatten().filter(|text| !text.is_object())
    {
        raw(text, tell);
    }
    let of_bedrock = body.get("toolConfig").unwrap_or(&Value::Null);
    let tools = elements(body, "tools").chain(elements(body, "functions"));
    for tool in tools.chain(elements(of_bedrock, "tools")) {
        let own = tool.get("function").or_else(|| tool.get("toolSpec")).unwrap_or(tool);
        let parameters = own.get("parameters").or_else(|| own.get("input_schema"));
        let parameters = parameters.or_else(|| own.get("inputSchema")?.get("json")).unwrap_or(&Value::Null);
        match own.get("name").and_then(Value::as_str) {
            Some(name) => tell(Piece::Tool(Tool { name, description: word(own, "description"), parameters })),
            None => tell(Piece::Other), // one that the API has built in
        }
    }
}

/// Tells the pieces of what a whole answer's body has generated.
pub fn answer_pieces<'a>(body: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    for choice in elements(body, "choices") {
        match choice.get("message") {
            Some(message) => said(message, tell),
            None => content(choice.get("text").unwrap_or(&Value::Null), tell),
        }
    }
    for item in elements(body, "output") {
        output_item(item, tell);
    }
    if let Some(message) = body.get("output").and_then(|output| output.get("message")) {
        said(message, tell);
    }
    for output in elements(body, "outputs") {
        content(output.get("text").unwrap_or(&Value::Null), tell);
        if output.get("datatype").is_some() {
            raw(output, tell);
        }
    }
    for result in elements(body, "results") {
        content(result.get("outputText").unwrap_or(&Value::Null), tell);
    }
    for candidate in elements(body, "candidates") {
        candidate.get("content").iter().for_each(|content| said(content, tell));
    }
    if let Some(message) = body.get("message") {
        said(message, tell);
    }
    for member in ["thinking", "response", "content", "generated_text", "generation", "text", "text_output"] {
        content(body.get(member).unwrap_or(&Value::Null), tell);
    }
    for answer in body.as_array().into_iter().flatten() {
        for member in ["content", "generated_text", "text"] {
            content(answer.get(member).unwrap_or(&Value::Null), tell);
        }
    }
}

/// An item of a response of OpenAI's: a message, thoughts or a call.
fn output_item<'a>(item: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    match word(item, "type") {
        "message" => said(item, tell),
        // Thoughts are shown in a summary or not at all.
        "reasoning" => tell(Piece::Other),
        "function_call" => call(item, "arguments", tell),
        "custom_tool_call" => call(item, "input", tell),
        _ => tell(Piece::Other),
    }
}

/// What a message says, without who says it.
fn said<'a>(message: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    for member in ["reasoning_content", "reasoning", "thinking", "content", "parts", "refusal"] {
        if let Some(value) = message.get(member) {
            content(value, tell);
        }
    }
    let calls = elements(message, "tool_calls").filter_map(|call| call.get("function"));
    for function in calls.chain(message.get("function_call")) {
        call(function, "arguments", tell);
    }
}

/// Whether a body is a request that has a prompt.
pub fn is_request(body: &Value) -> bool {
    ["messages", "prompt", "input", "contents"].iter().any(|member| body.get(member).is_some())
}

fn elements<'a>(of: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    of.get(member).and_then(Value::as_array).into_iter().flatten()
}

fn word<'a>(of: &'a Value, member: &str) -> &'a str {
    of.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn message<'a>(message: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    tell(Piece::Message);
    tell(Piece::Text(word(message, "role")));
    if let Some(name) = message.get("name").and_then(Value::as_str) {
        tell(Piece::Sender);
        tell(Piece::Text(name));
    }
    said(message, tell);
    // Ollama's pictures stand beside the text.
    elements(message, "images").for_each(|_| tell(Piece::Picture { low: false }));
}

fn call<'a>(call: &'a Value, arguments: &str, tell: &mut dyn FnMut(Piece<'a>)) {
    tell(Piece::Text(word(call, "name")));
    match call.get(arguments) {
        Some(Value::String(text)) => tell(Piece::Text(text)),
        Some(Value::Null) | None => {}
        Some(_) => tell(Piece::Other), // an object: each server writes it out in its own way
    }
}

/// A message's content: text, or parts of several kinds.
fn content<'a>(content: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    match content {
        Value::String(text) => tell(Piece::Text(text)),
        Value::Array(parts) => parts.iter().for_each(|part| self::part(part, tell)),
        _ => {}
    }
}

fn part<'a>(part: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    match word(part, "type") {
        "text" | "input_text" | "output_text" => tell(Piece::Text(word(part, "text"))),
        "thinking" => tell(Piece::Text(word(part, "thinking"))),
        "refusal" => tell(Piece::Text(word(part, "refusal"))),
        "image_url" | "input_image" | "image" => {
            let detail = part.get("image_url").unwrap_or(part).get("detail").and_then(Value::as_str);
            tell(Piece::Picture { low: detail == Some("low") });
        }
        "tool_use" => call(part, "input", tell),
        "tool_result" => content(part.get("content").unwrap_or(&Value::Null), tell),
        "" if part.is_string() => content(part, tell),
        "" if part.get("text").is_some() => tell(Piece::Text(word(part, "text"))),
        _ => tell(Piece::Other),
    }
}

/// A prompt without messages: a text, texts, token ids, or several lists of them.
fn raw<'a>(prompt: &'a Value, tell: &mut dyn FnMut(Piece<'a>)) {
    match prompt {
        Value::String(text) => tell(Piece::Text(text)),
        Value::Number(_) => tell(Piece::Ids(1)),
        Value::Array(parts) => parts.iter().for_each(|part| raw(part, tell)),
        Value::Object(members) if members.contains_key("role") => message(prompt, tell),
        Value::Object(members) if members.contains_key("datatype") => match members.get("data") {
            Some(data) if word(prompt, "datatype") == "BYTES" => raw(data, tell),
            _ => tell(Piece::Other), // numbers, which may be token ids or pixels
        },
        Value::Object(_) => part(prompt, tell),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(body: &Value) -> Vec<Piece<'_>> {
        let mut told = Vec::new();
        pieces(body, &mut |piece| told.push(piece));
        told
    }

    #[test]
    fn a_chat_is_its_messages() {
        let body = json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "name": "ann", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}]},
        ]});
        let text = Piece::Text;
        assert_eq!(
            told(&body),
            [
                Piece::Message,
                text("system"),
                text("Be brief."),
                Piece::Message,
                text("user"),
                Piece::Sender,
                text("ann"),
                text("What is this?"),
                Piece::Picture { low: true },
                Piece::Other,
                Piece::Message,
                text("assistant"),
                text("look"),
                text("{\"at\":1}"),
            ]
        );
    }

    #[test]
    fn other_apis_write_the_same_with_other_members() {
        let anthropic = json!({"system": [{"type": "text", "text": "s"}], "messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": "42"}, {"type": "thinking", "thinking": "hm"},
            {"type": "tool_use", "name": "add", "input": {"a": 1}}]}]});
        let text = Piece::Text;
        assert_eq!(
            told(&anthropic),
            [
                Piece::Message,
                text("system"),
                text("s"),
                Piece::Message,
                text("user"),
                text("42"),
                text("hm"),
                text("add"),
                Piece::Other
            ]
        );
        let ollama = json!({"messages": [{"role": "user", "content": "hi", "images": ["AAAA"]}]});
        assert_eq!(told(&ollama).last(), Some(&Piece::Picture { low: false }));
    }

    #[test]
    fn a_prompt_may_be_text_texts_or_token_ids() {
        assert_eq!(told(&json!({"prompt": "a", "suffix": "z"})), [Piece::Text("a"), Piece::Text("z")]);
        assert_eq!(told(&json!({"prompt": ["a", "b"]})), [Piece::Text("a"), Piece::Text("b")]);
        assert_eq!(told(&json!({"input": [[1, 2], [3]]})), [Piece::Ids(1); 3]);
        assert_eq!(told(&json!({"prompt": null})), []);
        assert_eq!(told(&json!({"inputs": "a", "parameters": {}})), [Piece::Text("a")]);
        assert_eq!(told(&json!({"text": ["a", "b"], "text_input": "c"})).len(), 3);
        assert_eq!(told(&json!({"input_ids": [1, 2]})), [Piece::Ids(1); 2]);
        assert_eq!(
            told(
                &json!({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]},
                {"name": "ids", "datatype": "INT32", "shape": [2], "data": [1, 2]}]})
            ),
            [Piece::Text("a"), Piece::Other]
        );
        let rerank = json!({"query": "q", "documents": ["a", {"text": "b"}]});
        assert_eq!(told(&rerank), ["q", "a", "b"].map(Piece::Text));
    }

    #[test]
    fn a_whole_answer_is_what_its_api_puts_the_text_into() {
        let text = Piece::Text;
        for (body, want) in [
            (
                json!({"choices": [{"message": {"role": "assistant", "reasoning": "r", "content": "a"}}, {"text": "b"}]}),
                vec![text("r"), text("a"), text("b")],
            ),
            (
                json!({"type": "message", "role": "assistant", "content": [{"type": "text", "text": "a"}]}),
                vec![text("a")],
            ),
            (json!({"message": {"role": "assistant", "content": "a"}, "done": true}), vec![text("a")]),
            (json!({"response": "a", "done": true}), vec![text("a")]),
            (json!({"content": "a", "stop": true}), vec![text("a")]),
            (json!([{"content": "a"}, {"content": "b"}]), vec![text("a"), text("b")]),
            (json!({"generated_text": "a", "details": null}), vec![text("a")]),
            (json!([{"text": "a", "meta_info": {}}, {"text": "b"}]), vec![text("a"), text("b")]),
            (json!({"model_name": "m", "text_output": "a"}), vec![text("a")]),
            (json!({"outputs": [{"datatype": "BYTES", "data": ["a"]}]}), vec![text("a")]),
            (json!({"output": {"message": {"content": [{"text": "a"}]}}}), vec![text("a")]),
            (json!({"generation": "a"}), vec![text("a")]),
            (json!({"results": [{"outputText": "a"}]}), vec![text("a")]),
            (json!({"outputs": [{"text": "a", "stop_reason": "stop"}]}), vec![text("a")]),
        ] {
            let mut told = Vec::new();
            answer_pieces(&body, &mut |piece| told.push(piece));
            assert_eq!(told, want, "{body}");
        }
    }

    #[test]
    fn a_tool_may_stand_in_an_envelope() {
        let schema = json!({"type": "object"});
        let tool = |parameters| Piece::Tool(Tool { name: "f", description: "d", parameters });
        let enveloped = json!({"tools": [{"type": "function",
            "function": {"name": "f", "description": "d", "parameters": schema}}]});
        assert_eq!(told(&enveloped), [tool(&schema)]);
        let bedrock = json!({"toolConfig": {"tools": [{"toolSpec":
            {"name": "f", "description": "d", "inputSchema": {"json": schema}}}]}});
        assert_eq!(told(&bedrock), [tool(&schema)]);
        let bare = json!({"tools": [{"name": "f", "description": "d", "input_schema": schema}, {"type": "web_search"}]});
        assert_eq!(told(&bare), [tool(&schema), Piece::Other]);
    }
}
