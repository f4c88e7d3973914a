"""pi0.5 and pi0 written out once more: NumPy in float64, loops over layers, tokens and heads, prefix and suffix in one
sequence, nothing kept between calls. Reads weights by openpi's names, so that those are tested along.

Conventions are the published ones: t = 1 is noise, t = 0 is action, the network predicts noise - action.
"""

import numpy as np

IMG, LLM = "PaliGemma/img/", "PaliGemma/llm/"


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def swish(x):
    return x / (1.0 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


class WrittenOut:
    def __init__(self, config, arrays):
        self.config = config
        self.arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}

    def dense(self, name, x, layer=None):
        kernel, bias = self.arrays[f"{name}/kernel"], self.arrays[f"{name}/bias"]
        return x @ kernel + bias if layer is None else x @ kernel[layer] + bias[layer]

    # ---- pictures

    def layer_norm(self, name, x, layer=None):
        scale, bias = self.arrays[f"{name}/scale"], self.arrays[f"{name}/bias"]
        if layer is not None:
            scale, bias = scale[layer], bias[layer]
        return np.stack([(v - v.mean()) / np.sqrt(v.var() + 1e-6) * scale + bias for v in x])

    def picture(self, pixels):
        """[h, w, 3] -> tokens as wide as the backbone."""
        sizes = self.config.vision
        tokens = []
        for row in range(0, sizes.image, sizes.patch):
            for column in range(0, sizes.image, sizes.patch):
                patch = pixels[row : row + sizes.patch, column : column + sizes.patch]
                kernel = self.arrays[f"{IMG}embedding/kernel"]
                tokens.append(np.einsum("abc,abcw->w", patch, kernel) + self.arrays[f"{IMG}embedding/bias"])
        x = np.stack(tokens) + self.arrays[f"{IMG}pos_embedding"][0]
        block = f"{IMG}Transformer/encoderblock/"
        for layer in range(sizes.depth):
            x = x + self.picture_attention(
                f"{block}MultiHeadDotProductAttention_0/",
                self.layer_norm(f"{block}LayerNorm_0", x, layer),
                layer,
            )
            y = self.layer_norm(f"{block}LayerNorm_1", x, layer)
            y = gelu(self.dense(f"{block}MlpBlock_0/Dense_0", y, layer))
            x = x + self.dense(f"{block}MlpBlock_0/Dense_1", y, layer)
        return self.dense(f"{IMG}head", self.layer_norm(f"{IMG}Transformer/encoder_norm", x))

    def picture_attention(self, name, x, layer):
        size, out = self.config.vision.width // self.config.vision.heads, 0.0
        for head in range(self.config.vision.heads):
            q, k, v = (
                x @ self.arrays[f"{name}{part}/kernel"][layer, :, head]
                + self.arrays[f"{name}{part}/bias"][layer, head]
                for part in ("query", "key", "value")
            )
            mixed = np.stack([softmax(k @ one / np.sqrt(size)) @ v for one in q])
            out = out + mixed @ self.arrays[f"{name}out/kernel"][layer, head]
        return out + self.arrays[f"{name}out/bias"][layer]

    # ---- words and actions

    def norm(self, name, x, condition, layer=None):
        """(normalised, gate)."""
        x = np.stack([v / np.sqrt(np.mean(v**2) + 1e-6) for v in x])
        if condition is None:
            scale = self.arrays[f"{name}/scale"]
            return x * (1.0 + (scale if layer is None else scale[layer])), 1.0
        scale, shift, gate = np.split(self.dense(f"{name}/Dense_0", condition, layer), 3)
        return x * (1.0 + scale) + shift, gate

    def turn(self, vector, position):
        half = len(vector) // 2
        out = np.empty_like(vector)
        for i in range(half):
            angle = position / 10_000.0 ** (2.0 * i / len(vector))
            a, b = vector[i], vector[i + half]
            out[i], out[i + half] = (
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
            )
        return out

    def layer(self, layer, streams, ends, conditions, positions, mask):
        """Backbone's and expert's tokens through one layer with one common attention."""
        sizes = self.config.language
        queries, keys, values, gates = [], [], [], []
        for x, end, condition in zip(streams, ends, conditions, strict=True):
            y, gate = self.norm(f"{LLM}layers/pre_attention_norm{end}", x, condition, layer)
            gates.append(gate)
            attention = f"{LLM}layers/attn/"
            queries.append(np.einsum("td,ndh->tnh", y, self.arrays[f"{attention}q_einsum{end}/w"][layer]))
            keys.append(np.einsum("td,ndh->tnh", y, self.arrays[f"{attention}kv_einsum{end}/w"][layer, 0]))
            values.append(np.einsum("td,ndh->tnh", y, self.arrays[f"{attention}kv_einsum{end}/w"][layer, 1]))
        queries, keys, values = (np.concatenate(parts) for parts in (queries, keys, values))
        mixed = np.zeros_like(queries)
        for t in range(len(queries)):
            for head in range(sizes.heads):
                shared = head // (sizes.heads // sizes.kv_heads)
                q = self.turn(queries[t, head], positions[t])
                seen = [s for s in range(len(keys)) if mask[t, s]]
                if seen:
                    logits = [
                        q @ self.turn(keys[s, shared], positions[s]) / np.sqrt(sizes.head_dim) for s in seen
                    ]
                    mixed[t, head] = softmax(np.array(logits)) @ values[seen, shared]
        out, start = [], 0
        for x, end, condition, gate in zip(streams, ends, conditions, gates, strict=True):
            own = mixed[start : start + len(x)]
            start += len(x)
            weight = self.arrays[f"{LLM}layers/attn/attn_vec_einsum{end}/w"][layer]
            x = x + np.einsum("tnh,nhd->td", own, weight) * gate
            y, gate = self.norm(f"{LLM}layers/pre_ffw_norm{end}", x, condition, layer)
            first, second = self.arrays[f"{LLM}layers/mlp{end}/gating_einsum"][layer]
            y = (gelu(y @ first) * (y @ second)) @ self.arrays[f"{LLM}layers/mlp{end}/linear"][layer]
            out.append(x + y * gate)
        return out

    def velocity(self, pictures, words, noisy, t, state=None):
        """noise - action. `pictures` in [-1, 1], `words` token ids with 0 as padding, `state` for pi0 only."""
        width = self.config.language.width
        table = self.arrays[f"{LLM}embedder/input_embedding"]
        prefix = np.concatenate([*(self.picture(p) for p in pictures), table[words] * np.sqrt(width)])
        per_picture = self.config.vision.tokens
        valid = [True] * (per_picture * len(pictures)) + [bool(word) for word in words]
        suffix, condition = self.suffix(noisy, t, state)
        valid += [True] * len(suffix)
        blocks = [0] * len(prefix) + ([1] if state is not None else []) + [2] * len(noisy)
        positions = np.cumsum(valid) - 1
        n = len(blocks)
        mask = np.array(
            [[valid[a] and valid[b] and blocks[b] <= blocks[a] for b in range(n)] for a in range(n)]
        )
        streams, ends, conditions = [prefix, suffix], ("", "_1"), (None, condition)
        for layer in range(self.config.language.depth):
            streams = self.layer(layer, streams, ends, conditions, positions, mask)
        last, _ = self.norm(f"{LLM}final_norm_1", streams[1], condition)
        return self.dense("action_out_proj", last[-len(noisy) :])

    def suffix(self, noisy, t, state):
        width = self.config.expert.width
        periods = [4e-3 * (4.0 / 4e-3) ** (i / (width // 2 - 1)) for i in range(width // 2)]
        angles = np.array([2.0 * np.pi * t / period for period in periods])
        when = np.concatenate([np.sin(angles), np.cos(angles)])
        actions = self.dense("action_in_proj", noisy)
        if state is None:
            condition = swish(self.dense("time_mlp_out", swish(self.dense("time_mlp_in", when))))
            return actions, condition
        mixed = np.stack([np.concatenate([action, when]) for action in actions])
        mixed = self.dense("action_time_mlp_out", swish(self.dense("action_time_mlp_in", mixed)))
        return np.concatenate([self.dense("state_proj", state)[None], mixed]), None

    def sample(self, pictures, words, noise, steps, state=None):
        """From t = 1 down to 0."""
        x, t, dt = np.array(noise, np.float64), 1.0, -1.0 / steps
        for _ in range(steps):
            x = x + dt * self.velocity(pictures, words, x, t, state)
            t = t + dt
        return x
