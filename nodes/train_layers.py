"""Radial Train Layers: MODEL -> MODEL of which Train LoRA trains only the named layers."""

from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import io

from .comfyui.state import is_training
from .inputs.checks import check_model, check_plain
from .training.freeze import check_not_compiled, freeze_others
from .training.layers import chosen_weights
from .training.prepare import prepare_for_training

KEY = "radial_attention_train_layers"


class RadialTrainLayers(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialTrainLayers",
            display_name="Radial Train Layers",
            category="radial attention",
            description="Train LoRA trains every layer of a model. Put this before it to train "
            "only some of them: by default the projections of self-attention, which the authors of "
            "Radial Attention train for longer videos.",
            search_aliases=["radial", "train lora", "target modules", "long video lora", "q k v o"],
            inputs=[
                io.Model.Input("model", tooltip="The model to train."),
                io.String.Input(
                    "layers",
                    default="q, k, v, o",
                    tooltip="Names, separated by commas. q, k, v and o are the self-attention "
                    "projections of the video in every block. Name other layers of the blocks by "
                    "their name or a part of it: ffn, cross_attn.q, img_mlp.0.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for Train LoRA. It samples as before.")],
        )

    @classmethod
    def execute(cls, model, layers) -> io.NodeOutput:
        check_model(model)
        check_plain(layers=layers)
        chosen = chosen_weights(model.get_model_object("diffusion_model"), str(layers))

        def freeze(patcher):
            if is_training():
                check_not_compiled(patcher)
                freeze_others(patcher, chosen)

        model = model.clone()
        prepare_for_training(model, KEY)
        model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, freeze)
        return io.NodeOutput(model)
