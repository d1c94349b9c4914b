// What an application imports from this package.

export { Call } from "./call.js";
export { Conversation } from "./conversation.js";
export { listDevices } from "./media_devices.js";
export { MicrophoneError } from "./microphone.js";
export { hasOpus } from "./opus.js";
export { FULL, Problem, Rest, Session } from "./session.js";
export { Transcript } from "./transcript.js";

/**
 * @typedef {import("./conversation.js").View} View
 * @typedef {import("./conversation.js").Devices} Devices
 * @typedef {import("./conversation.js").ConversationOptions} ConversationOptions
 * @typedef {import("./transcript.js").Bubble} Bubble
 * @typedef {import("./transcript.js").Card} Card
 * @typedef {import("./transcript.js").Line} Line
 * @typedef {import("./session.js").State} State
 * @typedef {import("./call.js").Word} Word
 * @typedef {import("./rest.js").StoredConversation} StoredConversation
 * @typedef {import("./rest.js").StoredMessage} StoredMessage
 * @typedef {import("./rest.js").StoredCall} StoredCall
 * @typedef {import("./events.js").SessionEvent} SessionEvent
 */
