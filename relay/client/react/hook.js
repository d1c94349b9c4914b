"use client";
// A conversation in React, 18 or newer.

import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { Conversation } from "../conversation.js";

/**
 * @typedef {import("../conversation.js").View} View
 * @typedef {import("../conversation.js").ConversationOptions} ConversationOptions
 *
 * @typedef {object} VoiceRelayOptions
 * @property {string | null} [conversationId] a stored one to be shown, and talked on in
 * @property {(told: {side: "user" | "agent", level: number}) => void} [onLevel] how loud, 0 to 1, 25
 *   times a second: draw it without a render
 *
 * @typedef {Pick<Conversation, "rest" | "open" | "look" | "talk" | "talkHere" | "stop" | "type"
 *   | "toggleMute" | "hush" | "decide" | "retry" | "choose" | "setVolume" | "prefer">} Actions
 */

/**
 * What is to be shown now (`View`) and what can be done. The functions stay the same from render to
 * render. `url` and `opus` are those of the first one; `getToken` and the others may change.
 * @param {ConversationOptions & VoiceRelayOptions} [options]
 * @returns {View & Actions}
 */
export function useVoiceRelay(options = {}) {
  const { conversationId = null } = options;
  const latest = useRef(options);
  const [{ conversation, subscribe, getView, actions }] = useState(() => make(latest));
  const view = useSyncExternalStore(subscribe, getView, getView);
  useEffect(() => {
    latest.current = options;
  });
  useEffect(() => conversation.mount(), [conversation]);
  useEffect(() => {
    conversation.open(conversationId);
  }, [conversation, conversationId]);
  return { ...view, ...actions };
}

/** @param {{current: ConversationOptions & VoiceRelayOptions}} latest */
function make(latest) {
  const conversation = new Conversation({
    ...latest.current,
    getToken: () => latest.current.getToken?.(),
    onSignedOut: (problem) => latest.current.onSignedOut?.(problem),
  });
  conversation.on("level", (level) => latest.current.onLevel?.(level));
  return {
    conversation,
    /** @param {() => void} listener */
    subscribe: (listener) => conversation.on("change", listener),
    getView: () => conversation.view,
    actions: actionsOf(conversation),
  };
}

/** @param {Conversation} conversation @returns {Actions} */
function actionsOf(conversation) {
  return {
    rest: conversation.rest,
    open: (id) => conversation.open(id),
    look: () => conversation.look(),
    talk: () => conversation.talk(),
    talkHere: () => conversation.talkHere(),
    stop: () => conversation.stop(),
    type: (text) => conversation.type(text),
    toggleMute: () => conversation.toggleMute(),
    hush: () => conversation.hush(),
    decide: (key, wanted) => conversation.decide(key, wanted),
    retry: (key) => conversation.retry(key),
    choose: (wanted) => conversation.choose(wanted),
    setVolume: (volume) => conversation.setVolume(volume),
    prefer: (wanted) => conversation.prefer(wanted),
  };
}
