"""Words that neither WordNet nor Unicode lists: written for this project, under its licence."""

# How pictures are made and look, as people say it in prompts.
STYLES = """
3d render; abstract art; acrylic painting; airbrush; anime; art deco; art nouveau; baroque;
blueprint; brutalism; calligraphy; caricature; cel shading; ceramic; chalk drawing;
charcoal drawing; children's book illustration; claymation; collage; colouring book; comic book;
concept art; crayon drawing; cross stitch; cubism; cyberpunk; dadaism; double exposure;
dot painting; embroidery; engraving; etching; expressionism; fantasy art; fauvism; film noir;
flat design; flat illustration; folk art; fresco; futurism; gothic art; gouache; graffiti; halftone;
impressionism; infographic; ink drawing; isometric; kawaii; knitted; lego; line art; linocut;
lithograph; low poly; macro photography; manga; minimalism; mosaic; neon; oil painting; origami;
paper cutout; pastel drawing; pen drawing; pencil sketch; photorealism; pixel art; playing card;
pointillism; polaroid; pop art; postcard; propaganda poster; realism; renaissance painting; rococo;
romanticism; screen print; silhouette; sketch; stained glass; steampunk; stencil; sticker;
stop motion; street art; stucco; surrealism; synthwave; tapestry; tattoo; technical drawing;
tilt shift; trading card; ukiyo-e; vaporwave; vector art; vintage photograph; voxel art;
wall painting; watercolour; wood carving; woodcut; x-ray
"""

# What people do, where a verb is more than its first word.
ACTIONS = """
brushing teeth; climbing a tree; cooking dinner; cutting grass; drinking coffee; driving a car;
feeding birds; flying a kite; holding a baby; lifting weights; looking at a phone; making a bed;
opening a door; painting a wall; picking flowers; playing chess; playing football;
playing the guitar; playing the piano; playing tennis; playing the violin; reading a book;
reading a newspaper; riding a bicycle; riding a horse; riding a motorcycle; shaking hands;
taking a photograph; talking on the phone; throwing a ball; tying a shoe; walking a dog;
washing dishes; watching television; watering plants; wearing a hat; writing a letter
"""

# Views, rooms and weather.
SCENES = """
a beach at sunset; a blue sky with clouds; a bridge at night; a bus station; a busy market;
a calm lake at dawn; a castle on a hill; a city at night; a city skyline; a classroom;
a clear night sky; a coastline; a coffee shop; a country road; a crowded street; a dark forest;
a desert; a desert island; a farm in summer; a field of flowers; a foggy morning; a garden in
spring;
a harbour with boats; a hospital corridor; a kitchen with a window; a library; a living room;
a misty valley; a mountain lake; a mountain under snow; a narrow street; a night sky; a park in
autumn;
a quiet village; a railway station; a rainy street; a river in a valley; a rocky coast;
a sandy beach; a snowy forest; a snowy mountain; a stormy sea; a street at night; a sunny day;
a sunrise over the sea; a swimming pool; a tropical island; a waterfall in a forest; a wheat field;
a winter landscape; an airport; an alley; an empty room; an office; an old town; fireworks at night;
heavy rain; northern lights; snow on a roof; the moon over the sea; the open sea; thunder and
lightning; under water
"""


def listed(text: str) -> list[str]:
    """The entries of one of the lists above."""
    return [" ".join(entry.split()) for entry in text.split(";")]
