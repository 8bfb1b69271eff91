//! How many tokens a request's prompt is: its text, and what the chat format, tools and pictures add to it, by tables.

use serde_json::Value;

use super::{Counted, Tokenizer};
use crate::dialect::prompt::{Piece, Tool, pieces};

/// What a chat format adds to the text of its messages, in tokens.
///
/// Source: OpenAI's cookbook, "How to count tokens with tiktoken", for models from gpt-3.5-turbo-0613 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    /// For each message.
    message: u64,
    /// For a sender's name.
    sender: u64,
    /// Once: what begins the answer.
    answer: u64,
}

const CHAT: Format = Format { message: 3, sender: 1, answer: 3 };

/// What tools add, from the same source: gpt-4o's figures.
mod tool {
    pub(super) const TOOL: u64 = 7;
    pub(super) const PROPERTIES: u64 = 3;
    pub(super) const PROPERTY: u64 = 3;
    pub(super) const ENUM: i64 = -3;
    pub(super) const ITEM: u64 = 3;
    pub(super) const ALL: u64 = 12;
}

/// A picture's tokens where its size is not known: in low detail, and 1024 x 1024 in high (OpenAI's guide to images,
/// gpt-4o).
const PICTURE_LOW: u64 = 85;
const PICTURE: u64 = 765;

/// How many tokens a request's prompt is; none where nothing in it can be counted. Exact for the text of OpenAI's chats
/// without tools and pictures, and for prompts without messages; else what the tables say, as an estimate.
///
/// `is_openai`: whether the tokenizer's model takes [`CHAT`]'s format; other models have templates of their own.
pub fn count(tokenizer: &Tokenizer, is_openai: bool, body: &Value) -> Option<Counted> {
    let (mut all, mut messages, mut tools, mut any) = (Counted::NONE, 0_u64, 0_u64, false);
    let mut add = |counted: Counted| all = all.plus(counted);
    pieces(body, &mut |piece| {
        any |= piece != Piece::Other;
        match piece {
            Piece::Message => {
                messages += 1;
                add(Counted { tokens: CHAT.message, exact: is_openai });
            }
            Piece::Sender => add(Counted { tokens: CHAT.sender, exact: is_openai }),
            Piece::Text(text) => add(tokenizer.count(text)),
            Piece::Ids(tokens) => add(Counted { tokens, exact: true }),
            Piece::Tool(tool) => {
                tools += 1;
                add(Counted::estimated(self::tool(tokenizer, &tool)));
            }
            Piece::Picture { low } => add(Counted::estimated(if low { PICTURE_LOW } else { PICTURE })),
            Piece::Other => add(Counted::estimated(0)),
        }
    });
    if messages > 0 {
        add(Counted { tokens: CHAT.answer, exact: is_openai });
    }
    if tools > 0 {
        add(Counted::estimated(tool::ALL));
    }
    any.then_some(all)
}

/// A tool by OpenAI's table, which knows flat parameters.
fn tool(tokenizer: &Tokenizer, tool: &Tool<'_>) -> u64 {
    let count = |text: &str| tokenizer.count(text).tokens;
    let stop = |text: &str| text.strip_suffix('.').unwrap_or(text).to_owned();
    let mut all = tool::TOOL + count(&format!("{}:{}", tool.name, stop(tool.description)));
    let Some(properties) = tool.parameters.get("properties").and_then(Value::as_object) else { return all };
    if properties.is_empty() {
        return all;
    }
    all += tool::PROPERTIES;
    for (name, property) in properties {
        let word = |member| property.get(member).and_then(Value::as_str).unwrap_or_default();
        all += tool::PROPERTY + count(&format!("{name}:{}:{}", word("type"), stop(word("description"))));
        let items = property.get("enum").and_then(Value::as_array);
        if let Some(items) = items {
            all = all.saturating_add_signed(tool::ENUM);
            all += items.iter().filter_map(Value::as_str).map(|item| tool::ITEM + count(item)).sum::<u64>();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::account::tokenize::Encoding;

    fn counted(encoding: Encoding, body: &Value) -> Counted {
        count(&Tokenizer::of_encoding(encoding), true, body).unwrap()
    }

    /// The example of OpenAI's cookbook, with what their API reports for it.
    #[test]
    fn messages_are_what_openais_api_reports() {
        let body = json!({"messages": [
            {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
            {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
            {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
            {"role": "system", "name": "example_user", "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
            {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
            {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
        ]});
        assert_eq!(counted(Encoding::Cl100kBase, &body), Counted { tokens: 129, exact: true });
        assert_eq!(counted(Encoding::O200kBase, &body), Counted { tokens: 124, exact: true });
    }

    #[test]
    fn what_has_no_text_is_not_no_tokens() {
        let tokenizer = Tokenizer::of_encoding(Encoding::O200kBase);
        let numbers = json!({"inputs": [{"datatype": "INT32", "shape": [2], "data": [1, 2]}]});
        assert_eq!(count(&tokenizer, true, &numbers), None);
        assert_eq!(count(&tokenizer, true, &json!({"model": "m"})), None);
        assert_eq!(count(&tokenizer, true, &json!({"prompt": ""})), Some(Counted::NONE));
    }

    /// The cookbook's example with a tool.
    #[test]
    fn tools_are_what_openais_api_reports() {
        let body = json!({
            "messages": [
                {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
                {"role": "user", "content": "What's the weather like in San Francisco?"},
            ],
            "tools": [{"type": "function", "function": {
                "name": "get_current_weather", "description": "Get the current weather in a given location",
                "parameters": {"type": "object", "required": ["location"], "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]},
                }},
            }}],
        });
        assert_eq!(counted(Encoding::O200kBase, &body), Counted { tokens: 101, exact: false });
    }

    #[test]
    fn a_prompt_without_messages_has_nothing_added_and_ids_are_tokens() {
        let five = Counted { tokens: 5, exact: true };
        assert_eq!(counted(Encoding::Cl100kBase, &json!({"prompt": "Learning AI is fun!"})), five);
        assert_eq!(counted(Encoding::Cl100kBase, &json!({"prompt": [[1, 2, 3], [4, 5]]})), five);
    }

    #[test]
    fn what_is_not_in_a_table_makes_an_estimate() {
        let tokenizer = Tokenizer::of_encoding(Encoding::O200kBase);
        let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
        assert!(!count(&tokenizer, false, &chat).unwrap().exact, "another model's template");
        let picture = json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]});
        assert_eq!(counted(Encoding::O200kBase, &picture).tokens, 3 + 1 + PICTURE + 3);
    }
}
